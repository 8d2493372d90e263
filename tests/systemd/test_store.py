"""The stand-in for systemd, and systemd itself where both must do the same with what is stored."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.systemd.rig import Rig
from tests.systemd.store import StandIn

KEEPER = """\
import array, os, socket, sys, time

def notify(text, *descriptors):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.connect(os.environ["NOTIFY_SOCKET"])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        one.sendmsg([text.encode()], rights)

names = os.environ["LISTEN_FDNAMES"].split(":") if os.environ.get("LISTEN_PID") == str(os.getpid()) else []
if not names:
    for name in ("first", "second"):
        memory = os.memfd_create(name)
        os.write(memory, name.encode())
        notify(f"FDSTORE=1\\nFDNAME={name}\\nFDPOLL=0", memory, memory)
    reading, writing = os.pipe()
    notify("FDSTORE=1\\nFDNAME=pipe\\nFDPOLL=0", reading, writing)
    for name, poll in (("hangs-up", ""), ("kept", "\\nFDPOLL=0")):
        ours, theirs = socket.socketpair()
        theirs.close()
        notify(f"FDSTORE=1\\nFDNAME={name}{poll}", ours.fileno())
        ours.close()
    notify("FDSTORE=1\\nFDNAME=removed\\nFDPOLL=0", os.memfd_create("removed"))
    notify("FDSTOREREMOVE=1\\nFDNAME=removed")
    seen = "nothing"
else:
    texts = [os.pread(3 + place, 99, 0).decode() for place, name in enumerate(names) if name in ("first", "second")]
    seen = " ".join([*sorted(names), *sorted(texts)])
before, after = os.pipe()
notify("BARRIER=1", after)
os.close(after)
assert os.read(before, 1) == b""
notify(f"READY=1\\nSTATUS=passed: {seen}")
time.sleep(600)
"""
"""Stores files when nothing is passed to it, and says what is."""

SECOND = "passed: first kept pipe pipe second first second"

UNIT = """\
[Service]
Type=notify
NotifyAccess=all
FileDescriptorStoreMax=16
Restart=on-failure
RestartSec=0
StartLimitIntervalSec=0
ExecStart={python} /run/keeper.py
"""


class Real:
    """The keeper as a service of systemd's."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def crash(self) -> str:
        before = self._rig.show("MainPID", "keeper")
        self._rig.systemctl("kill", "--signal=KILL", "keeper")
        rig = self._rig
        rig.wait_until(
            lambda: rig.show("MainPID", "keeper") not in {before, "0"} and rig.show("SubState", "keeper") == "running",
            "restart",
        )
        return rig.show("StatusText", "keeper")

    def restart(self) -> str:
        self._rig.systemctl("restart", "keeper")
        return self._rig.show("StatusText", "keeper")

    def again(self) -> str:
        self._rig.systemctl("stop", "keeper")
        self._rig.systemctl("start", "keeper")
        return self._rig.show("StatusText", "keeper")


class StoodIn:
    """The keeper as a service of the stand-in's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.manager = self._new()

    def _new(self) -> StandIn:
        directory = self._directory / str(len(list(self._directory.iterdir())))
        directory.mkdir()
        manager = StandIn([sys.executable, "-c", KEEPER], {}, directory)
        manager.open()
        manager.wait_ready()
        return manager

    def _status(self) -> str:
        return self.manager.told[-1].fields["STATUS"]

    def crash(self) -> str:
        self.manager.crash()
        return self._status()

    def restart(self) -> str:
        self.manager.restart()
        return self._status()

    def again(self) -> str:
        self.manager.stop()
        self.manager.close()
        self.manager = self._new()
        return self._status()


@pytest.fixture(params=["systemd", "stand-in"])
def keeper(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Real | StoodIn]:
    with (real if request.param == "systemd" else stood_in)(request, tmp_path) as one:
        yield one


@contextmanager
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Real]:
    rig: Rig = request.getfixturevalue("systemd")
    rig.write("/run/keeper.py", KEEPER)
    rig.write("/etc/systemd/system/keeper.service", UNIT.format(python=rig.python))
    rig.systemctl("daemon-reload")
    rig.systemctl("start", "keeper")
    yield Real(rig)
    rig.systemctl("stop", "keeper")


@contextmanager
def stood_in(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoodIn]:
    one = StoodIn(tmp_path)
    yield one
    one.manager.close()


def test_what_is_stored_outlives_a_crash(keeper: Real | StoodIn) -> None:
    assert keeper.crash() == SECOND
    assert keeper.crash() == SECOND


def test_what_is_stored_outlives_a_restart(keeper: Real | StoodIn) -> None:
    assert keeper.restart() == SECOND


def test_a_stop_empties_the_store(keeper: Real | StoodIn) -> None:
    assert keeper.again() == "passed: nothing"
