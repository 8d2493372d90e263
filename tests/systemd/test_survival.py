"""proxyd dies, and systemd starts it again: guests past the commit point do not notice, others stay at their source.

:mod:`tests.integration.test_survival` has many more bytes to die at, with a stand-in for systemd.
"""

from __future__ import annotations

import pytest

from tests.systemd.peers import LARGE, Peers, has_failed, peers, read_exactly
from tests.systemd.rig import rig


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_killed_after_the_commit_point_it_goes_on(share: float, service: Peers) -> None:
    """Both peers see one stream without a break, and the verdict arrives."""
    source, destination, thread = service.commit()
    rig = service.rig
    at = round(share * len(LARGE))
    got = read_exactly(destination, at)
    before = rig.show("MainPID")
    rig.systemctl("kill", "--signal=KILL", "proxyd")
    rig.wait_until(lambda: rig.show("MainPID") not in {before, "0"}, "restart")
    assert got + read_exactly(destination, len(LARGE) - at) == LARGE
    thread.join()
    service.finish(source, destination, b"")
    rig.wait_until(lambda: rig.show("NFileDescriptorStore") == "0", "empty store")
    assert "a migration past its commit point is taken up again" in rig.journal("proxyd")
    service.migrate()


def test_killed_more_often_than_systemd_would_allow_by_default(service: Peers) -> None:
    source, destination, thread = service.commit()
    rig = service.rig
    got = b""
    for _ in range(7):
        before = rig.show("MainPID")
        rig.systemctl("kill", "--signal=KILL", "proxyd")
        rig.wait_until(lambda before=before: rig.show("MainPID") not in {before, "0"}, "restart")
        got += read_exactly(destination, len(LARGE) // 10)
    got += read_exactly(destination, len(LARGE) - len(got))
    assert got == LARGE
    thread.join()
    service.finish(source, destination, b"")


def test_killed_before_the_commit_point_it_leaves_the_guest_at_its_source(service: Peers) -> None:
    source, destination = service.begin()
    rig = service.rig
    before = rig.show("MainPID")
    rig.systemctl("kill", "--signal=KILL", "proxyd")
    assert has_failed(source)
    assert has_failed(destination)
    rig.wait_until(lambda: rig.show("SubState") == "running" and rig.show("MainPID") != before, "restart")
    service.migrate()


def test_the_watchdog_ends_a_process_that_hangs() -> None:
    with rig({"proxyd.service": "[Service]\nWatchdogSec=1s\n"}) as one, peers(one) as service:
        source, destination, thread = service.commit()
        before = one.show("MainPID")
        one.systemctl("kill", "--signal=STOP", "proxyd")
        one.wait_until(lambda: one.show("MainPID") not in {before, "0"}, "restart")
        assert one.show("NRestarts") == "1"
        assert "Watchdog timeout" in one.journal("proxyd")
        service.finish(source, destination, LARGE)
        thread.join()
