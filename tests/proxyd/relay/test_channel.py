"""Legs on real sockets, and dialling."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from proxyd.endpoint import Address
from proxyd.relay import channel
from proxyd.relay.channel import DestinationUnreachable, Leg, SocketLeg, dial
from proxyd.relay.resolving import Found, Resolver
from tests.proxyd.relay.wires import a_closed_port, a_door, connect, read_exactly, read_to_fin, read_to_rst, reset


class FakeResolver(Resolver):
    """Resolves every name to the addresses it was given."""

    def __init__(self, *addresses: tuple[str, int]) -> None:
        super().__init__()
        self.addresses = addresses

    async def look_up(self, host: str, port: int) -> Found:
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in self.addresses]


@asynccontextmanager
async def a_leg() -> AsyncIterator[tuple[SocketLeg, trio.SocketStream]]:
    async with a_door() as door:
        leg = await dial(Address(door.host, door.port), 5)
        try:
            yield leg, await door.next()
        finally:
            leg.close()


async def test_a_leg_sends_receives_and_half_closes() -> None:
    async with a_leg() as (leg, peer):
        narrow: Leg = leg
        await narrow.send_buffers([b"one", memoryview(b"two")])
        await narrow.send_eof()
        assert await read_to_fin(peer) == b"onetwo"
        await peer.send_all(b"verdict")
        assert await narrow.receive_some() == b"verdict"
        await peer.send_eof()
        assert await narrow.receive_some() == b""
        narrow.close()
        narrow.close()
        narrow.keepalive(on=True)
        await peer.aclose()


async def test_closing_delivers_what_was_sent() -> None:
    async with a_leg() as (leg, peer):
        await leg.send_buffers([bytes(100_000)])
        leg.close()
        assert len(await read_to_fin(peer)) == 100_000
        await peer.aclose()


async def test_aborting_resets() -> None:
    async with a_leg() as (leg, peer):
        leg.abort()
        leg.abort()
        assert await read_to_rst(peer) == b""
        await peer.aclose()


async def test_a_reset_peer_is_a_broken_resource() -> None:
    async with a_leg() as (leg, peer):
        reset(peer)
        with pytest.raises(trio.BrokenResourceError):
            await leg.receive_some()
        leg.close()


async def test_a_leg_names_its_peer_and_keeps_an_eye_on_it() -> None:
    async with a_leg() as (leg, peer):
        host, port = peer.socket.getsockname()
        assert leg.peer == f"{host}:{port}"

        def option(level: int, name: int) -> int:
            return leg._socket.getsockopt(level, name)

        assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == channel.KEEPALIVE_IDLE_S
        assert option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == channel.KEEPALIVE_INTERVAL_S
        assert option(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == channel.KEEPALIVE_PROBES
        assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        leg.keepalive(on=False)
        assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
        leg.close()
        await peer.aclose()


async def test_dialling_a_closed_port_says_what_was_found() -> None:
    port = a_closed_port()
    with pytest.raises(DestinationUnreachable) as caught:
        await dial(Address("127.0.0.1", port), 5)
    assert str(caught.value) == (
        f"destination 127.0.0.1:{port}: expected a QEMU that listens, found 127.0.0.1: Connection refused"
    )


async def test_dialling_a_name_that_does_not_resolve_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "RESOLVER", FakeResolver())
    with pytest.raises(DestinationUnreachable) as caught:
        await dial(Address("nowhere.example", 4444), 5)
    assert str(caught.value) == (
        "destination nowhere.example:4444: the name does not resolve: [Errno -2] Name or service not known"
    )


async def test_dialling_tries_one_address_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door() as door:
        addresses = [("127.0.0.1", a_closed_port()), (door.host, door.port), (door.host, door.port)]
        monkeypatch.setattr(channel, "RESOLVER", FakeResolver(*addresses))
        leg = await dial(Address("both.example", 4444), 5)
        peer = await door.next()
        await leg.send_buffers([b"x"])
        assert await read_exactly(peer, 1) == b"x"
        # A second connection without data would make a waiting QEMU exit.
        assert await door.nobody_came()
        leg.close()
        await peer.aclose()


async def test_dialling_gives_up_after_its_limit(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    class Silent:
        """A socket whose SYN nobody answers."""

        closed = False

        async def connect(self, where: object) -> None:
            await trio.sleep_forever()

        def close(self) -> None:
            Silent.closed = True

    monkeypatch.setattr(trio.socket, "socket", lambda *_: Silent())
    with pytest.raises(DestinationUnreachable) as caught:
        await dial(Address("127.0.0.1", 4444), 3)
    assert str(caught.value) == (
        "destination 127.0.0.1:4444: expected a QEMU that listens, "
        "found 127.0.0.1: no answer in 3 s (limits.connect_time_s)"
    )
    assert trio.current_time() == 3
    assert Silent.closed


async def test_the_connection_of_a_cancelled_dial_is_closed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    closed = []

    class Silent:
        async def connect(self, where: object) -> None:
            await trio.sleep_forever()

        def close(self) -> None:
            closed.append(self)

    monkeypatch.setattr(trio.socket, "socket", lambda *_: Silent())
    with trio.move_on_after(1) as scope:
        await dial(Address("127.0.0.1", 4444), 3)
    assert scope.cancelled_caught
    assert len(closed) == 1


async def test_dialling_works_over_ipv6() -> None:
    async with a_door("::1") as door:
        leg = await dial(Address(door.host, door.port), 5)
        peer = await door.next()
        assert leg.peer == f"[::1]:{door.port}"
        leg.close()
        await peer.aclose()


async def test_a_source_s_connection_becomes_a_leg() -> None:
    async with a_door() as door:
        stream = await connect(door.host, door.port)
        leg = SocketLeg.take(await door.next())
        await stream.send_all(b"QEVM")
        assert await leg.receive_some() == b"QEVM"
        leg.abort()
        await read_to_rst(stream)
        await stream.aclose()
