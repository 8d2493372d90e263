"""The service manager's protocol, over a real datagram socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.service_notify import ServiceNotifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def lines(manager: socket.socket) -> list[str]:
    """One datagram."""
    return manager.recv(4096).decode().split("\n")


def test_each_message_is_one_datagram(manager: socket.socket) -> None:
    notifier = ServiceNotifier.from_environment({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.ready("serving 1 route")
    assert lines(manager) == ["READY=1", "STATUS=serving 1 route"]
    notifier.stopping("draining")
    assert lines(manager) == ["STOPPING=1", "STATUS=draining"]
    notifier.status("well")
    assert lines(manager) == ["STATUS=well"]
    notifier.alive()
    assert lines(manager) == ["WATCHDOG=1"]
    with pytest.raises(BlockingIOError):
        manager.recv(1)


def test_a_reload_says_when_it_began(manager: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    ServiceNotifier(manager.getsockname()).reloading()
    reloading, stamp = lines(manager)
    assert reloading == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_a_line_break_in_a_status_does_not_become_a_message(manager: socket.socket) -> None:
    ServiceNotifier(manager.getsockname()).ready("refused:\nSTOPPING=1")
    assert lines(manager) == ["READY=1", "STATUS=refused: STOPPING=1"]


def test_the_abstract_namespace() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # the kernel chooses an abstract name
        name = sock.getsockname()
        assert name.startswith(b"\0")
        ServiceNotifier("@" + name[1:].decode()).alive()
        assert sock.recv(100) == b"WATCHDOG=1"


def test_outside_a_service_nothing_is_sent() -> None:
    notifier = ServiceNotifier.from_environment({})
    notifier.ready("x")
    assert notifier.watchdog_s is None


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    ServiceNotifier(str(tmp_path / "nobody")).ready("x")


def test_a_manager_that_does_not_read_is_no_error(manager: socket.socket) -> None:
    notifier = ServiceNotifier(manager.getsockname())
    for _ in range(5000):
        notifier.alive()
    assert manager.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_or_it_is_not(environment: dict[str, str], expected: float | None) -> None:
    assert ServiceNotifier.from_environment(environment, pid=7).watchdog_s == expected
