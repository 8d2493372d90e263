"""Sessions on real sockets with somebody who keeps their descriptors from the commit point on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from proxyd.endpoint import Address
from proxyd.metrics import Metrics
from proxyd.relay.channel import SocketLeg
from proxyd.relay.outcome import Ending
from proxyd.relay.session import MigrationSession
from proxyd.relay.surroundings import Surroundings
from tests import builders as b
from tests.proxyd.relay.kept import MemoryStore
from tests.proxyd.relay.stage import PONG_1, SHUT_0, ScriptedRewriter, a_journal, a_route
from tests.proxyd.relay.wires import a_door, connect, read_exactly, read_to_fin, read_to_rst, reset


class Scene:
    """Sources that connect to a destination through sessions of one daemon."""

    def __init__(self, nursery: trio.Nursery, listener: trio.SocketListener) -> None:
        self.store = MemoryStore()
        journal, self.told = a_journal()
        self.around = Surroundings(Metrics(), journal, lambda _route: ScriptedRewriter(), store=self.store)
        self.endings: list[Ending] = []
        self._route = a_route(destination=Address("127.0.0.1", listener.socket.getsockname()[1]))
        self._listener = listener
        self._nursery = nursery
        self._streams: list[trio.SocketStream] = []
        self._running = 0

    async def accept(self) -> trio.SocketStream:
        """The next connection at the destination."""
        stream = await self._listener.accept()
        self._streams.append(stream)
        return stream

    async def settle(self) -> None:
        """Until the sessions have ended, which they do by themselves if the test did its part."""
        with trio.move_on_after(5):
            while self._running:
                await trio.sleep(0.001)
        for stream in self._streams:
            reset(stream)

    async def source(self, first: bytes) -> trio.SocketStream:
        """A connection, through a session of its own."""
        async with a_door() as door:
            stream = await connect(door.host, door.port)
            leg = SocketLeg.take(await door.next())
        self._nursery.start_soon(self._run, MigrationSession(leg, self._route, self.around))
        self._streams.append(stream)
        await stream.send_all(first)
        return stream

    async def _run(self, session: MigrationSession) -> None:
        self._running += 1
        try:
            self.endings.append(await session.run())
        finally:
            self._running -= 1


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        async with trio.open_nursery() as nursery:
            one = Scene(nursery, listener)
            try:
                with trio.fail_after(30):
                    yield one
            finally:
                # Nothing else ends a committed session, not even the failure of the test that began it.
                await one.settle()
        one.store.close()


async def finish(source: trio.SocketStream, destination: trio.SocketStream) -> None:
    await destination.send_all(SHUT_0)
    await destination.aclose()
    assert await read_to_fin(source) == SHUT_0
    await source.aclose()


async def test_it_is_kept_from_the_commit_point_to_the_end() -> None:
    async with scene() as one:
        source = await one.source(b"QEVM/ram")
        destination = await one.accept()
        assert await read_exactly(destination, 8) == b"QEVM/ram"
        await destination.send_all(PONG_1)
        assert await read_exactly(source, 8) == PONG_1
        assert not one.store.kept
        await source.send_all(b"[state]")
        assert await read_exactly(destination, 7) == b"<state>"
        (found,) = one.store.kept.values()
        assert len(found) == 9
        await finish(source, destination)
    assert [ending.outcome.value for ending in one.endings] == ["completed"]
    assert len(one.store.forgotten) == 1


async def test_a_postcopy_is_kept_with_its_memory_to_come() -> None:
    async with scene() as one:
        source = await one.source(b"QEVM/ram{package}")
        destination = await one.accept()
        assert await read_exactly(destination, 17) == b"QEVM/ram<package>"
        assert one.store.kept
        await source.send_all(b"pages")
        assert await read_exactly(destination, 5) == b"pages"
        await finish(source, destination)


async def test_another_architecture_is_kept_from_its_first_byte() -> None:
    async with scene() as one:
        source = await one.source(b"QEVM~ram")
        destination = await one.accept()
        assert await read_exactly(destination, 8) == b"QEVM~ram"
        assert one.store.kept
        await finish(source, destination)


async def test_its_channels_are_kept_with_it_and_a_reset_ends_that() -> None:
    async with scene() as one:
        source = await one.source(b"")
        channel = await one.source(b.multifd_init() + b"pages")
        await source.send_all(b"QEVM/ram")
        destination = await one.accept()
        towards = await one.accept()
        assert await read_exactly(towards, 69) == b.multifd_init() + b"pages"
        await source.send_all(b"[state]")
        assert await read_exactly(destination, 15) == b"QEVM/ram<state>"
        (found,) = one.store.kept.values()
        assert len(found) == 15
        reset(channel)
        assert await read_to_rst(towards) == b""
        assert not one.store.kept
        await finish(source, destination)


async def test_with_a_channel_that_cannot_be_kept_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyd.relay.session.carried", lambda *_: None)  # as if the leg were TLS
    async with scene() as one:
        source = await one.source(b"")
        channel = await one.source(b.multifd_init() + b"pages")
        await source.send_all(b"QEVM/ram")
        destination = await one.accept()
        towards = await one.accept()
        assert await read_exactly(towards, 69) == b.multifd_init() + b"pages"
        await source.send_all(b"[state]")
        assert await read_exactly(destination, 15) == b"QEVM/ram<state>"
        assert not one.store.kept
        await channel.send_eof()
        assert await read_to_fin(towards) == b""
        await towards.aclose()
        await channel.aclose()
        await finish(source, destination)


async def test_a_store_that_takes_nothing_stops_nothing() -> None:
    async with scene() as one:
        one.store.takes = False
        source = await one.source(b"QEVM/ram[state]")
        destination = await one.accept()
        assert await read_exactly(destination, 15) == b"QEVM/ram<state>"
        await finish(source, destination)
    assert [ending.outcome.value for ending in one.endings] == ["completed"]


async def test_a_recovery_is_kept() -> None:
    async with scene() as one:
        source = await one.source(b.RECV_BITMAP)
        destination = await one.accept()
        assert await read_exactly(destination, len(b.RECV_BITMAP)) == b.RECV_BITMAP
        assert one.store.kept
        await finish(source, destination)
