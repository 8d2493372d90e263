"""The silent loss of PMU enables on Linux 6.12: shown without proxyd, cured with it.

QEMU loads without a word, and the guest's counters and overflow interrupts are off (Linux a45f41d754e0: KVM takes the
write of the CLR register for an order to clear). Both hosts have the same kernel: nothing else is in the way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.kvmlab.catalogue import catalogue
from tests.kvmlab.guest import GuestSpec
from tests.kvmlab.host import HostSpec
from tests.kvmlab.lab import open_lab, print_progress, set_up
from tests.kvmlab.pair import Attempt, attempt_directly, attempt_through_proxyd, boot_pair

pytestmark = pytest.mark.kvmlab

KERNEL = "6.12"
SECONDS = 240


@dataclass(frozen=True, slots=True)
class Moves:
    """What became of two guests, one moved without and one with proxyd."""

    direct: Attempt
    proxied: Attempt


async def _move(directory: Path, progress: Callable[[str], None]) -> Moves:
    known = catalogue()
    images = set_up([KERNEL], progress)
    guest = GuestSpec(known.inner, 1)
    with trio.fail_after(SECONDS):
        async with open_lab(images, progress) as lab:
            hosts = await boot_pair(lab, HostSpec(KERNEL, known.cpu), HostSpec(KERNEL, known.cpu))
            direct = await attempt_directly(lab, hosts, guest)
            proxied = await attempt_through_proxyd(lab, hosts, guest, directory)
    return Moves(direct, proxied)


@pytest.fixture(scope="module")
def moves(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Moves:
    """Run the lab once for both tests, saying on the terminal what it does."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def progress(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print_progress(text)

    return trio.run(_move, tmp_path_factory.mktemp("proxyd"), progress)


def test_enables_are_lost_without_a_word(moves: Moves) -> None:
    assert moves.direct.runs_on == "destination"
    assert moves.direct.outcome.source_status == "completed"
    lost = "\n".join(map(str, moves.direct.changed))
    for register in ("PMCNTENSET_EL0", "PMINTENSET_EL1"):
        assert f"{register} 0x80000001 -> 0x0" in lost


def test_enables_stay_through_proxyd(moves: Moves) -> None:
    assert moves.proxied.runs_on == "destination"
    assert moves.proxied.outcome.source_status == "completed"
    assert moves.proxied.continues
    assert moves.proxied.clean, moves.proxied.changed
    changed = {
        line["register"].partition(" ")[0] for line in moves.proxied.proxy_log if line.get("message") == "register set"
    }
    assert changed == {"PMCNTENCLR_EL0", "PMINTENCLR_EL1", "PMOVSCLR_EL0"}
