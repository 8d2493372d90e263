"""``proxyd upgrade`` under systemd: which process is the main one, and what becomes of both when one stops or dies.

:mod:`tests.integration.test_upgrade` has what is the same without a service manager.
"""

from __future__ import annotations

import json

from tests.systemd.peers import HEAD, LARGE, WIRE, Peers


def test_an_upgrade_makes_another_process_the_main_one(service: Peers) -> None:
    rig, before = service.rig, service.rig.show("MainPID")
    source, destination = service.begin()
    answer = json.loads(rig.proxyd("upgrade", "--json"))
    assert rig.show("MainPID") != before
    assert answer["connections"] == 1
    assert rig.show("StatusText") == "serving 1 route"
    assert rig.status(rig.show("MainPID"))["CapEff"] == "0" * 16
    service.migrate()
    source.sendall(WIRE[len(HEAD) :])
    service.finish(source, destination, WIRE[len(HEAD) :])
    rig.wait_until(lambda: not rig.path(f"/proc/{before}").exists(), "end of the old process")
    assert (rig.show("ActiveState"), rig.show("NRestarts")) == ("active", "0")
    rig.systemctl("reload", "proxyd")
    service.migrate()


def test_a_stop_after_an_upgrade_drains_both(service: Peers) -> None:
    source, destination = service.begin()
    rig = service.rig
    rig.proxyd("upgrade")
    rig.systemctl("stop", "--no-block", "proxyd")
    rig.wait_until(lambda: "draining: up to 300 s" in rig.journal("proxyd"), "drain of the old process")
    source.sendall(WIRE[len(HEAD) :])
    service.finish(source, destination, WIRE[len(HEAD) :])
    rig.wait_until(lambda: rig.show("ActiveState") == "inactive", "end of the service")
    assert rig.show("Result") == "success"


def test_a_crash_of_the_new_process_does_not_cut_what_the_old_one_finishes(service: Peers) -> None:
    source, destination, thread = service.commit()
    rig = service.rig
    rig.proxyd("upgrade")
    rig.systemctl("kill", "--kill-who=main", "--signal=KILL", "proxyd")
    service.finish(source, destination, LARGE)
    thread.join()
    rig.wait_until(lambda: rig.show("SubState") == "running", "restart")
    service.migrate()


def test_a_crash_of_both_after_an_upgrade(service: Peers) -> None:
    source, destination, thread = service.commit()
    rig = service.rig
    rig.proxyd("upgrade")
    before = rig.show("MainPID")
    rig.systemctl("kill", "--signal=KILL", "proxyd")
    rig.wait_until(lambda: rig.show("MainPID") not in {before, "0"}, "restart")
    service.finish(source, destination, LARGE)
    thread.join()
    service.migrate()
