"""Listening sockets of every kind, for real."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
import trio

from proxyd.endpoint import Address, InheritedSocket, PortRange, UnixPath
from proxyd.relay.channel import SocketLeg
from proxyd.relay.listening import InheritedSockets, listen_on
from tests.proxyd.relay.wires import a_door

NONE = InheritedSockets({})


async def test_a_port_that_the_kernel_chooses() -> None:
    opened = await listen_on(Address("127.0.0.1", 0), NONE)
    assert isinstance(opened.endpoint, Address)
    assert opened.endpoint.port != 0
    stream = await trio.open_tcp_stream("127.0.0.1", opened.endpoint.port)
    leg = SocketLeg.take(await opened.listeners[0].accept())
    assert leg.local == opened.endpoint
    assert leg.host == leg.origin == "127.0.0.1"
    leg.close()
    await stream.aclose()
    opened.close()
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", opened.endpoint.port)


async def test_a_range_is_opened_whole_or_not_at_all() -> None:
    async with a_door() as door:
        taken = PortRange("127.0.0.1", door.port - 1, door.port)
        with pytest.raises(OSError, match=f"port {door.port}: Address already in use"):
            await listen_on(taken, NONE)
        free = await listen_on(PortRange("127.0.0.1", door.port - 1, door.port - 1), NONE)
    assert len(free.listeners) == 1
    free.close()


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    opened = await listen_on(UnixPath(str(path)), NONE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    stream = await trio.open_unix_socket(str(path))
    leg = SocketLeg.take(await opened.listeners[0].accept())
    assert leg.origin == leg.peer == f"unix (pid {os.getpid()})"
    assert (leg.host, leg.local) == (None, None)
    leg.keepalive(on=True)
    await stream.send_all(b"a word")
    assert await leg.receive_some() == b"a word"
    await leg.send_eof()
    assert await stream.receive_some() == b""
    leg.abort()
    await stream.aclose()
    opened.close()
    assert not path.exists()
    opened.close()


async def test_a_socket_that_a_dead_process_left_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    opened = await listen_on(UnixPath(str(path)), NONE)
    with pytest.raises(OSError, match="another process listens there"):
        await listen_on(UnixPath(str(path)), NONE)
    opened.close()
    path.write_text("precious")
    with pytest.raises(OSError, match="there is a file of this name that is no socket"):
        await listen_on(UnixPath(str(path)), NONE)
    assert path.read_text() == "precious"
    with pytest.raises(FileNotFoundError):
        await listen_on(UnixPath(str(tmp_path / "nowhere" / "in.sock")), NONE)


async def test_sockets_of_the_service_manager() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given, socket.socket() as idle:
        inherited = InheritedSockets({"in": (given.fileno(),), "idle": (idle.fileno(),)})
        for _ in range(2):  # a reload opens it again
            opened = await listen_on(InheritedSocket("in"), inherited)
            stream = await trio.open_tcp_stream(*given.getsockname())
            await (await opened.listeners[0].accept()).aclose()
            await stream.aclose()
            opened.close()
        with pytest.raises(OSError, match="the socket that the service manager passed does not listen"):
            await listen_on(InheritedSocket("idle"), inherited)
        with pytest.raises(OSError, match=r"no socket of this name was passed .* \(passed: idle, in\)"):
            await listen_on(InheritedSocket("out"), inherited)
    with pytest.raises(OSError, match=r"\(passed: none\)"):
        await listen_on(InheritedSocket("out"), NONE)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {}),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "1"}, {}),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "x"}, {}),
        ({"LISTEN_PID": "7"}, {}),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, {"unknown": (3,)}),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:a"}, {"a": (3, 5), "b": (4,)}),
    ],
)
def test_how_they_are_passed(environment: dict[str, str], expected: dict[str, tuple[int, ...]]) -> None:
    assert InheritedSockets.from_environment(environment, 7)._by_name == expected
