"""The daemon as a process: exit codes, signals, the service manager."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd import service
from proxyd.daemon import Daemon
from proxyd.ports import Listening
from proxyd.predecessor import Predecessor
from proxyd.service import serve
from proxyd.upgrade_link import VARIABLE
from tests.proxyd.test_daemon import logging_as_it_was, route, text

__all__ = ["logging_as_it_was"]  # a fixture of every test here, too


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_serving_a_bad_configuration_is_exit_1(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path.write_text("colour = 1")
    assert serve(path) == 1
    assert capfd.readouterr().err == (
        f"proxyd: {path}: colour: unknown key "
        "(accepted here: metrics, log, limits, rehearsal, control, recorder, audit, route)\n"
    )


def test_serving_a_configuration_that_is_not_there_is_exit_4(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert serve(path) == 4
    assert capfd.readouterr().err == (f"proxyd: {path}: cannot read the configuration: No such file or directory\n")


def test_serving_on_a_taken_port_is_exit_4(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path.write_text(text(route("lab", 1, port)))
        assert serve(path) == 4
    assert f"proxyd: route lab: cannot listen on 127.0.0.1:{port}: Address already in use\n" in capfd.readouterr().err


def test_a_bug_is_exit_70_with_a_traceback(
    path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Daemon) -> str:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Daemon, "_status", broken)
    path.write_text(text(route("lab", 1)))
    assert serve(path) == 70
    err = capfd.readouterr().err
    assert "a bug of proxyd's; please report it with these lines" in err
    assert "ZeroDivisionError: a bug" in err


@pytest.fixture
def old_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The end of a process whose place this one is to take, which stays the same process here."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(Predecessor, "detach", lambda _self: None)
    kept: list[Predecessor | None] = []
    made = Predecessor.from_environment

    def from_environment(environment: dict[str, str]) -> Predecessor | None:
        kept.append(made(environment))
        return kept[-1]

    monkeypatch.setattr(Predecessor, "from_environment", from_environment)
    monkeypatch.setenv(VARIABLE, str(theirs.detach()))
    with ours:
        yield ours
    for one in filter(None, kept):
        one._link._socket.close()


def test_a_process_whose_predecessor_is_gone_is_exit_3(
    path: Path, capfd: pytest.CaptureFixture[str], old_end: socket.socket
) -> None:
    path.write_text(text(route("lab", 1)))
    old_end.close()
    assert serve(path) == 3
    assert capfd.readouterr().err == "proxyd: the other process has ended\n"


def test_a_process_that_cannot_take_over_says_why_to_its_predecessor(path: Path, old_end: socket.socket) -> None:
    path.write_text("[metrics]\nlisen = 1\n")
    assert serve(path) == 1
    assert b'"kind":"refused"' in old_end.recv(1 << 16)
    assert serve(path.with_name("nothing.toml")) == 4


def test_a_host_without_prctl_is_told_of(
    path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.ctypes, "CDLL", lambda _name: object())
    path.write_text("")
    assert serve(path) == 1
    assert "cannot hide its memory from other processes of its user" in capfd.readouterr().err


def test_signals_reload_and_drain(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In the main thread, with real signals."""
    path.write_text(text(route("lab", 1)))
    seen: list[Listening] = []

    def on_ready(listening: Listening) -> None:
        seen.append(listening)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)

    assert serve(path, on_ready=on_ready) == 0
    assert seen[0].routes["lab"].port != 0
    err = capfd.readouterr().err
    assert "reloaded" in err
    assert err.rstrip().endswith("drained")


def test_outside_the_main_thread_there_are_no_signals(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(text(route("lab", 1)))
    made: list[Daemon] = []

    class Kept(Daemon):
        async def run(self, on_ready: object = None) -> None:
            made.append(self)
            self.drain()
            await super().run()

    monkeypatch.setattr(service, "Daemon", Kept)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(serve(path)))
    thread.start()
    thread.join(30)
    assert codes == [0]


def test_a_process_under_a_service_manager(tmp_path: Path) -> None:
    """READY, RELOADING, READY, watchdog, STOPPING, exit 0: a whole life, as systemd sees it."""
    config = tmp_path / "config.toml"
    config.write_text(text(route("lab", 1)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "100000",
        }
        code = (
            "import sys; from pathlib import Path; from proxyd.service import serve; sys.exit(serve(Path(sys.argv[1])))"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(config)], env=environment, stderr=subprocess.PIPE)
        try:

            def until(wanted: str) -> str:
                while True:
                    message = manager.recv(4096).decode()
                    if message.startswith(wanted):
                        return message

            until("READY=1")
            until("WATCHDOG=1")
            process.send_signal(signal.SIGHUP)
            until("RELOADING=1")
            until("READY=1")
            process.send_signal(signal.SIGTERM)
            until("STOPPING=1")
            _, err = process.communicate(timeout=30)
            assert process.returncode == 0, err
        finally:
            process.kill()
            process.communicate()
