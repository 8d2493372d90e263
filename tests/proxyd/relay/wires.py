"""Real loopback connections for tests: a listener that plays the destination, and a look at what a peer did."""

from __future__ import annotations

import socket
import ssl
import struct
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

RST = struct.pack("ii", 1, 0)


async def connect(host: str, port: int) -> trio.SocketStream:
    """One connection, as a source opens it."""
    sock = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        await sock.connect((host, port))
    except OSError:
        sock.close()
        raise
    return trio.SocketStream(sock)


def reset(stream: trio.SocketStream) -> None:
    """RST. Does nothing to a stream that is closed."""
    if stream.socket.fileno() >= 0:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        stream.socket.close()


async def read_to_fin(stream: trio.SocketStream) -> bytes:
    """Everything up to the FIN. An RST is an error."""
    got = b""
    while chunk := await stream.receive_some():
        got += chunk
    return got


async def read_to_rst(stream: trio.SocketStream) -> bytes:
    """Everything up to the RST, which a FIN is not."""
    got = b""
    while True:
        try:
            chunk = await stream.receive_some()
        except trio.BrokenResourceError as error:
            if not isinstance(error.__cause__, ConnectionResetError):
                raise
            return got
        assert chunk, "FIN where RST was expected"
        got += chunk


async def read_exactly(stream: trio.SocketStream, count: int) -> bytes:
    got = b""
    while len(got) < count:
        chunk = await stream.receive_some(count - len(got))
        assert chunk, f"FIN after {len(got)} bytes"
        got += chunk
    return got


_doors: weakref.WeakSet[Door] = weakref.WeakSet()


def slam_doors() -> None:
    """Reset every connection that a test's destinations left open: nothing else ends a committed session."""
    for door in _doors:
        door.slam()


class Door:
    """A listening socket whose connections the test takes one by one."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self._opened: list[trio.SocketStream] = []
        _doors.add(self)
        self.host, self.port = listener.socket.getsockname()[:2]

    async def next(self) -> trio.SocketStream:
        with trio.fail_after(30):
            stream = await self._listener.accept()
        self._opened.append(stream)
        return stream

    def slam(self) -> None:
        """Reset what the test left open."""
        for stream in self._opened:
            reset(stream)

    async def nobody_came(self) -> bool:
        """Whether nobody has connected so far."""
        with trio.move_on_after(0.05) as scope:
            stream = await self._listener.accept()
            await stream.aclose()
        return scope.cancelled_caught


@asynccontextmanager
async def a_door(host: str = "127.0.0.1") -> AsyncIterator[Door]:
    """A destination's port."""
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with listener:
        door = Door(listener)
        try:
            yield door
        finally:
            door.slam()


def a_closed_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def a_tls_client(pki: Path, port: int) -> ssl.SSLSocket:
    """A connection from a source that trusts our CA and has a certificate of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(pki / "ca-cert.pem")
    context.load_cert_chain(pki / "client-cert.pem", pki / "client-key.pem")
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    return context.wrap_socket(plain, server_hostname="localhost")
