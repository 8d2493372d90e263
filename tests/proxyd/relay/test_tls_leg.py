"""TLS legs on real sockets, against the ssl module's own blocking sockets in a thread."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from proxyd.config import TlsConfig
from proxyd.relay.channel import SocketLeg
from proxyd.relay.tls_leg import HandshakeFailed, TlsLeg, accept_tls, connect_tls
from proxyd.tls import ClientTls, ServerTls, client_tls, server_tls
from tests.certificates import CLIENT, make_authority, make_certificate, make_directory

RST = struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("pki"))


def server(pki: Path, *identities: str) -> ServerTls:
    return server_tls(TlsConfig(source="x", source_identities=identities), pki)


def client(pki: Path, hostname: str | None = None) -> ClientTls:
    return client_tls(TlsConfig(destination="x", hostname=hostname), pki)


async def sockets() -> tuple[SocketLeg, socket.socket]:
    """A leg, and the peer's blocking socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    peer.settimeout(30)
    return SocketLeg(accepted), peer


class Peer:
    """The other end: TLS in a thread."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, hostname: str | None = None) -> None:
        self._wrap = lambda: context.wrap_socket(
            sock, server_side=hostname is None, server_hostname=hostname, suppress_ragged_eofs=False
        )
        self.raw = sock
        self.tls: ssl.SSLSocket

    async def shake(self) -> None:
        self.tls = await self.do(self._wrap)

    async def do(self, what: Callable[..., Any], *arguments: Any) -> Any:
        return await trio.to_thread.run_sync(what, *arguments, abandon_on_cancel=True)

    async def read_all(self) -> bytes:
        got = b""
        while chunk := await self.do(self.tls.recv, 1 << 20):
            got += chunk
        return got


async def source_pair(pki: Path, *identities: str) -> tuple[TlsLeg, Peer]:
    """A source's leg as proxyd has it, and the source."""
    leg, sock = await sockets()
    peer = Peer(sock, client(pki).context, "localhost")
    found: list[TlsLeg] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.shake)
        secured, identity = await accept_tls(leg, server(pki, *identities))
        assert identity == CLIENT
        found.append(secured)
    return found[0], peer


async def test_a_source_with_its_name_and_bytes_both_ways(pki: Path) -> None:
    leg, peer = await source_pair(pki, CLIENT)
    assert leg.origin == "127.0.0.1"
    assert leg.peer.startswith("127.0.0.1:")
    assert leg.certificate is not None
    leg.keepalive(on=False)
    data = os.urandom(3 << 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.do, peer.tls.sendall, data)
        got = bytearray()
        while len(got) < len(data):
            got += await leg.receive_chunk()
    assert bytes(got) == data
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leg.send_buffers, [data[:10], data[10:20], data[20:]])
        while len(got) < len(data):
            got += await peer.do(peer.tls.recv, 1 << 20)
    assert bytes(got) == data
    await leg.send_buffers([b"a", b"bc"])
    assert await peer.do(peer.tls.recv, 100) == b"abc", "small pieces are one record"
    await peer.do(peer.tls.sendall, b"xyz")
    assert await leg.receive_some() == b"xyz"
    leg.close()
    leg.close()
    peer.tls.close()


async def test_a_view_that_is_kept_is_not_written_over(pki: Path) -> None:
    leg, peer = await source_pair(pki)
    await peer.do(peer.tls.sendall, b"first")
    first = await leg.receive_chunk()
    await peer.do(peer.tls.sendall, b"other")
    assert bytes(await leg.receive_chunk()) == b"other"
    assert bytes(first) == b"first"
    leg.close()
    peer.tls.close()


@pytest.mark.parametrize("clean", [True, False])
async def test_the_end_that_came_is_told_and_the_one_to_send_is_asked_for(clean: bool, pki: Path) -> None:
    leg, peer = await source_pair(pki)
    await peer.do(peer.tls.sendall, b"last")
    if clean:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.do, peer.tls.unwrap)
            assert await leg.receive_some() == b"last"
            assert await leg.receive_some() == b""
            await leg.send_eof()
    else:
        socket.socket.shutdown(peer.tls, socket.SHUT_WR)
        assert await leg.receive_some() == b"last"
        assert await leg.receive_some() == b""
        await leg.send_eof(clean=False)
        with pytest.raises(ssl.SSLError):  # OpenSSL has told what it makes of such an end; there was no close_notify
            await peer.do(peer.tls.recv, 10)
    assert leg.ended_cleanly is clean
    leg.close()
    peer.raw.close()
    peer.tls.close()


async def test_our_end_first_and_reading_on(pki: Path) -> None:
    leg, peer = await source_pair(pki)
    await leg.send_eof()
    assert await peer.do(peer.tls.recv, 10) == b""
    await peer.do(peer.tls.sendall, b"still here")
    assert await leg.receive_some() == b"still here"
    leg.close()
    peer.tls.close()


async def test_a_reset_and_a_close_of_ours(pki: Path) -> None:
    leg, peer = await source_pair(pki)
    leg.abort()
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):  # the latter from Python before 3.12
        await peer.do(peer.tls.recv, 10)
    assert peer.tls.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x07", "RST, not FIN"
    for operation in (leg.receive_some, leg.send_eof, lambda: leg.send_buffers([b"x"])):
        with pytest.raises(trio.ClosedResourceError):
            await operation()
    leg.keepalive(on=True)
    leg.abort()
    peer.tls.close()


async def test_a_reset_of_the_peers(pki: Path) -> None:
    leg, peer = await source_pair(pki)
    peer.tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    peer.tls.close()
    with pytest.raises(trio.BrokenResourceError, match="connection broken"):
        await leg.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await leg.send_buffers([b"x" * 100_000])
    with pytest.raises(trio.BrokenResourceError):
        await leg.send_eof(clean=False)
    leg.close()


async def test_a_closed_leg_wakes_who_waits(pki: Path) -> None:
    leg, peer = await source_pair(pki)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await leg.receive_some()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        leg.close()
    peer.tls.close()


async def test_bytes_that_are_no_tls_break_the_leg(pki: Path) -> None:
    leg, peer = await source_pair(pki)
    await peer.do(socket.socket.send, peer.tls, b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(trio.BrokenResourceError, match="connection broken"):
        await leg.receive_some()
    leg.close()
    peer.tls.close()


async def handshake_of(context: ssl.SSLContext | None, accepting: ServerTls, first: bytes = b"") -> HandshakeFailed:
    """Let a source try; returns why it may not."""
    leg, sock = await sockets()

    def talk(context: ssl.SSLContext) -> None:
        with context.wrap_socket(sock, server_hostname="localhost") as tls:
            tls.recv(1)

    async with trio.open_nursery() as nursery:

        async def attempt() -> None:
            if context is None:
                sock.sendall(first)
                sock.close()
                return
            try:
                await trio.to_thread.run_sync(talk, context)
            except OSError:
                sock.close()

        nursery.start_soon(attempt)
        with pytest.raises(HandshakeFailed) as caught:
            await accept_tls(leg, accepting)
    return caught.value


async def test_sources_that_may_not(pki: Path, tmp_path: Path) -> None:
    other = make_directory(tmp_path)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(pki / "ca-cert.pem")
    assert "peer did not return a certificate" in str(await handshake_of(trusting, server(pki))).lower().replace(
        "_", " "
    )
    trusting.load_cert_chain(other / "client-cert.pem", other / "client-key.pem")
    assert str(await handshake_of(trusting, server(pki))).startswith(
        "expected a certificate of the source that we accept, found: "
    )
    assert str(await handshake_of(client(pki).context, server(pki, "CN=b,O=Test", "CN=a"))) == (
        f"expected a source among CN=a; CN=b,O=Test (tls.source_identities), found {CLIENT}"
    )


@pytest.mark.parametrize(
    ("first", "says", "silent"),
    [
        (b"", "expected a TLS handshake of the source, found the end of the connection", True),
        (
            b"QEVM\0\0\0\3 and so on",
            "expected a TLS handshake of the source, found bytes that are none (WRONG_VERSION_NUMBER)",
            False,
        ),
        (
            b"GET / HTTP/1.1\r\n\r\n",
            "expected a TLS handshake of the source, found bytes that are none (HTTP_REQUEST)",
            False,
        ),
    ],
)
async def test_what_is_no_handshake(first: bytes, says: str, silent: bool, pki: Path) -> None:
    failure = await handshake_of(None, server(pki), first)
    assert (str(failure), failure.silent) == (says, silent)


async def destination_of(pki: Path, tls: ClientTls, host: str = "localhost") -> TlsLeg:
    leg, sock = await sockets()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server-cert.pem", pki / "server-key.pem")
    peer = Peer(sock, context)
    async with trio.open_nursery() as nursery:

        async def shake() -> None:
            try:
                await peer.shake()
                peer.tls.close()
            except OSError:
                sock.close()

        nursery.start_soon(shake)
        secured: TlsLeg | None = None
        failure: HandshakeFailed | None = None
        try:
            secured = await connect_tls(leg, tls, host)
        except HandshakeFailed as error:
            failure = error
    if failure is not None:
        raise failure
    assert secured is not None
    return secured


async def test_a_destination_is_who_the_route_says(pki: Path, tmp_path: Path) -> None:
    (await destination_of(pki, client(pki))).close()
    (await destination_of(pki, client(pki, "server.example"), "anything")).close()
    with pytest.raises(HandshakeFailed, match="of the destination that we accept, found: Hostname"):
        await destination_of(pki, client(pki), "elsewhere.example")
    make_authority(tmp_path)
    make_certificate(tmp_path, "client")
    with pytest.raises(HandshakeFailed, match="expected a certificate of the destination that we accept, found: "):
        await destination_of(pki, client(tmp_path))


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_handshake_that_is_given_up_closes_the_leg(side: str, pki: Path) -> None:
    leg, sock = await sockets()
    with trio.move_on_after(0.05) as scope:
        if side == "source":
            await accept_tls(leg, server(pki))
        else:
            await connect_tls(leg, client(pki), "localhost")
    assert scope.cancelled_caught
    with pytest.raises(ConnectionResetError):
        _read_to_the_end(sock)
    sock.close()


def _read_to_the_end(sock: socket.socket) -> None:
    while sock.recv(1 << 16):
        pass
