"""``proxyd rehearsal-service`` as a service manager starts it: a process whose standard input is a socket."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys

import pytest

from proxyd.cli import probe, rehearsal_service
from proxyd.rehearsal_protocol import Failed, MessageReader, Prepare, Prepared, encode
from tests.proxyd.cli.command import Run
from tests.proxyd.kvm.fake_kernel import FakeKernel, real_host


def test_a_process_on_a_host_without_kvm_for_arm64() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = [sys.executable, "-m", "proxyd.cli", "rehearsal-service"]
        with subprocess.Popen(argv, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            theirs.close()
            ours.settimeout(60)
            ours.sendall(encode(Prepare()))
            (failed,) = MessageReader().feed(ours.recv(1 << 16))
            ours.shutdown(socket.SHUT_WR)
            assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0
    # On an arm64 machine it depends on whether there is KVM; elsewhere the reason is always the same.
    assert isinstance(failed, Failed if platform.machine() != "aarch64" else Failed | Prepared)


@pytest.fixture
def daemon_end(monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """The other end of the socket that is standard input here, on an arm64 host."""
    kernel = FakeKernel(real_host("7.3", "neoverse-n1"))
    monkeypatch.setattr(probe, "live_host", lambda: (kernel, kernel))
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(rehearsal_service, "STANDARD_INPUT", theirs.detach())
    return ours


def test_questions_are_answered(run: Run, daemon_end: socket.socket) -> None:
    with daemon_end:
        daemon_end.sendall(encode(Prepare()))
        daemon_end.shutdown(socket.SHUT_WR)
        assert run("rehearsal-service").code == 0
        (prepared,) = MessageReader().feed(daemon_end.recv(1 << 20))
    assert isinstance(prepared, Prepared)


def test_a_daemon_that_is_gone(run: Run, daemon_end: socket.socket) -> None:
    daemon_end.sendall(encode(Prepare()))
    daemon_end.close()
    ran = run("rehearsal-service")
    assert (ran.code, ran.out, ran.err) == (0, "", "proxyd rehearsal-service: the daemon is gone\n")


def test_no_socket(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/null", "rb") as null:
        monkeypatch.setattr(rehearsal_service, "STANDARD_INPUT", null.fileno())
        ran = run("rehearsal-service")
    assert ran.code == 2
    assert "a connected socket as standard input expected" in ran.err
