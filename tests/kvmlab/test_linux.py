"""A Linux guest at work goes from Linux 6.12 to Linux 7.3 through proxyd, and notices nothing.

The hosts are booted once; the tests look at what happened.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.kvmlab.catalogue import catalogue
from tests.kvmlab.guest import GuestSpec
from tests.kvmlab.host import HostSpec
from tests.kvmlab.lab import open_lab, print_progress, set_up
from tests.kvmlab.linux_image import LINUX
from tests.kvmlab.migration import Arrival
from tests.kvmlab.pair import Attempt, attempt_through_proxyd, boot_pair

pytestmark = pytest.mark.kvmlab

SOURCE, DESTINATION = "6.12", "7.3"
VCPUS = 2
SECONDS = 900
"""For everything after the downloads. Linux boots under KVM under TCG: docs/kvmlab.md has what was measured."""


async def _move(directory: Path, progress: Callable[[str], None]) -> Attempt:
    known = catalogue()
    images = set_up([SOURCE, DESTINATION], progress, linux=True)
    with trio.fail_after(SECONDS):
        async with open_lab(images, progress) as lab:
            hosts = await boot_pair(lab, HostSpec(SOURCE, known.cpu), HostSpec(DESTINATION, known.cpu))
            return await attempt_through_proxyd(lab, hosts, GuestSpec(known.inner, VCPUS, program=LINUX), directory)


@pytest.fixture(scope="module")
def move(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Attempt:
    """Run the lab once for all tests here, saying on the terminal what it does."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def progress(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print_progress(text)

    return trio.run(_move, tmp_path_factory.mktemp("proxyd"), progress)


def test_guest_does_all_kinds_of_work(move: Attempt) -> None:
    """Nothing is clean because it was left out; SVE is what neoverse-n1 does not have."""
    assert move.abilities == {"sve": "the CPU has none", "caches": None, "cycles": None, "disk": None, "network": None}
    assert len(move.counts_after) == 2 * VCPUS + len(("cycles", "disk", "network", "machine"))


def test_guest_arrives(move: Attempt) -> None:
    assert move.outcome.source_status == "completed", (move.outcome, move.proxy_log)
    assert move.outcome.arrival is Arrival.RUNNING
    assert [line for line in move.outcome.complaints if "warning:" not in line] == []


def test_every_worker_goes_on_with_all_checks_clean(move: Attempt) -> None:
    assert move.runs_on == "destination"
    assert move.continues, (move.counts_before, move.counts_resumed, move.counts_after)
    assert move.clean, move.changed


def test_linux_sees_the_same_machine(move: Attempt) -> None:
    assert move.changed == ()
    assert move.identity == ()
