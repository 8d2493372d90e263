"""Other ways to migrate on real kernels: multifd, and postcopy. Each pair fails directly and arrives through proxyd.

The three hosts are booted once; the tests look at what happened.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.kvmlab.catalogue import catalogue
from tests.kvmlab.guest import GuestSpec
from tests.kvmlab.host import Host, HostSpec
from tests.kvmlab.lab import Lab, open_lab, print_progress, set_up
from tests.kvmlab.migration import Arrival
from tests.kvmlab.mode import Mode
from tests.kvmlab.pair import Attempt, attempt_directly, attempt_through_proxyd

pytestmark = pytest.mark.kvmlab

KERNELS = ("6.12", "7.3", "7.2")
SECONDS = 300
"""For everything after the downloads; measured: docs/kvmlab.md."""


@dataclass(frozen=True, slots=True)
class Way:
    """A pair of kernels, and how its guest migrates."""

    mode: Mode
    source: str
    destination: str
    qemu: str


WAYS = (
    Way(Mode.MULTIFD, "6.12", "7.3", "10.0"),
    # Only from QEMU 10.2 on does a source survive a load that fails in postcopy, as the direct one here does.
    Way(Mode.POSTCOPY, "7.3", "7.2", "11.1"),
)

Moves = dict[Way, tuple[Attempt, Attempt]]


async def _move(directory: Path, progress: Callable[[str], None]) -> Moves:
    images = set_up(list(KERNELS), progress, inner=[way.qemu for way in WAYS])
    moves: Moves = {}
    with trio.fail_after(SECONDS):
        async with open_lab(images, progress) as lab:
            hosts = await _boot(lab)
            for way in WAYS:
                pair = (hosts[way.source], hosts[way.destination])
                # A guest that is to stay leaves the PMU alone: docs/kvmlab.md.
                plain = GuestSpec(way.qemu, 2, program="plain-checker", mode=way.mode)
                direct = await attempt_directly(lab, pair, plain)
                proxied = await attempt_through_proxyd(lab, pair, GuestSpec(way.qemu, 2, mode=way.mode), directory)
                moves[way] = direct, proxied
    return moves


async def _boot(lab: Lab) -> dict[str, Host]:
    hosts: dict[str, Host] = {}

    async def boot(kernel: str) -> None:
        hosts[kernel] = await lab.boot(HostSpec(kernel, catalogue().cpu))

    async with trio.open_nursery() as nursery:
        for kernel in KERNELS:
            nursery.start_soon(boot, kernel)
    return hosts


@pytest.fixture(scope="module")
def moves(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Moves:
    """Run the lab once for all tests here, saying on the terminal what it does."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def progress(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print_progress(text)

    return trio.run(_move, tmp_path_factory.mktemp("proxyd"), progress)


each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.mode.value)


@each_way
def test_destination_refuses_the_guest_without_proxyd_and_the_source_goes_on(moves: Moves, way: Way) -> None:
    direct, _ = moves[way]
    assert direct.outcome.arrival is Arrival.EXITED
    text = "\n".join(direct.outcome.complaints)
    assert "cpreg_vmstate_array_len" in text or "unknown on the destination: fail migration" in text
    assert direct.runs_on == "source"
    assert direct.continues
    assert direct.clean, direct.changed


@each_way
def test_guest_goes_on_at_the_destination_with_all_checks_clean(moves: Moves, way: Way) -> None:
    _, proxied = moves[way]
    assert proxied.outcome.source_status == "completed", (proxied.outcome, proxied.proxy_log)
    assert proxied.outcome.arrival is Arrival.RUNNING
    assert proxied.runs_on == "destination"
    assert proxied.continues
    assert proxied.clean, proxied.changed
    assert any(line.get("outcome") == "completed" for line in proxied.proxy_log)


def test_each_went_its_way(moves: Moves) -> None:
    for way, attempts in moves.items():
        for attempt in attempts:
            assert ("postcopy-device" in attempt.outcome.states) is (way.mode is Mode.POSTCOPY)
