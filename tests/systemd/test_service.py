"""proxyd as a service of a real systemd, with the units as they are shipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systemd.rig import CONFIG, Rig

HEAD = '[metrics]\nlisten = "127.0.0.1:0"\n[control]\nsocket = "/run/proxyd-control/control.sock"\n'
LAB = '[[route]]\nname = "lab"\nlisten = "127.0.0.1:0"\ndestination = "127.0.0.1:9"\n'


@pytest.fixture
def service(systemd: Rig) -> Iterator[Rig]:
    """A proxyd that was started by systemd."""
    systemd.write(CONFIG, HEAD + LAB)
    systemd.systemctl("start", "proxyd")
    yield systemd
    systemd.try_run("systemctl", "kill", "--signal=KILL", "proxyd")
    systemd.systemctl("stop", "proxyd")
    systemd.try_run("systemctl", "reset-failed", "proxyd")


def test_it_starts_and_tells_what_it_serves(service: Rig) -> None:
    assert service.systemctl("is-active", "proxyd") == "active\n"
    assert service.show("StatusText") == "serving 1 route"
    assert "route lab: 127.0.0.1:" in service.proxyd("status")


def test_it_has_a_user_of_its_own_and_no_capability(service: Rig) -> None:
    status = service.status(service.show("MainPID"))
    (uid,) = set(status["Uid"].split())
    assert 61184 <= int(uid) <= 65519, "a user of DynamicUser="
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2", "a filter"


def test_it_stops(service: Rig) -> None:
    service.systemctl("stop", "proxyd")
    assert service.show("Result") == "success"
    assert service.show("ExecMainStatus") == "0"
    assert "drained" in service.journal("proxyd").splitlines()
