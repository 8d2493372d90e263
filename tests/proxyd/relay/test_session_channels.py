"""Several connections that are one migration: multifd, preempt, recovery. In memory, on a mock clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proxyd.endpoint import Address
from proxyd.metrics import Metrics
from proxyd.relay import migration as migration_module
from proxyd.relay.channel import DestinationUnreachable
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.session import MigrationSession, Surroundings
from tests import builders as b
from tests.proxyd.relay.legs import MemoryLeg, leg_pair
from tests.proxyd.relay.stage import (
    PONG_1,
    SHUT_0,
    ScriptedRewriter,
    a_journal,
    a_route,
    end_seen,
    reset_seen,
    value,
)

UUID = bytes(range(16))


class Scene:
    """Sources that connect, and a destination that takes connections in the order in which they are dialled."""

    def __init__(self, nursery: trio.Nursery, *, advised: bool = False) -> None:
        self.metrics = Metrics()
        journal, self.told = a_journal()
        self.advised = advised
        self.rewriters: list[ScriptedRewriter] = []
        self.refuse_after: int | None = None
        self.capacity: int | None = None  # bytes that a connection to the destination holds before it is read
        self._around = Surroundings(self.metrics, journal, lambda _route: self._rewriter(), self._dial)
        self._nursery = nursery
        self._dialled: list[MemoryLeg] = []
        self._send, self._receive = trio.open_memory_channel[MemoryLeg](100)
        self.endings: dict[str, Ending] = {}
        self.legs: list[MemoryLeg] = []

    def _rewriter(self) -> ScriptedRewriter:
        one = ScriptedRewriter()
        one.postcopy_advised = self.advised
        self.rewriters.append(one)
        return one

    async def _dial(self, _address: Address, _timeout_s: float) -> MemoryLeg:
        if self.refuse_after is not None and len(self._dialled) >= self.refuse_after:
            raise DestinationUnreachable("nobody is there")
        destination, leg = leg_pair("destination:2", "proxyd", self.capacity, exact=True)
        self._dialled.append(destination)
        await self._send.send(destination)
        return leg

    def connect(self, name: str, host: str = "192.0.2.1") -> MemoryLeg:
        """A connection from a source; it is accepted at once."""
        source, leg = leg_pair("proxyd", f"{host}:1000")
        leg.peer = f"{host}:1000"
        leg.origin = host
        self.legs.append(source)
        session = MigrationSession(leg, a_route(), self._around)

        async def run() -> None:
            self.endings[name] = await session.run()

        self._nursery.start_soon(run)
        return source

    async def accepted(self) -> MemoryLeg:
        """The next connection at the destination."""
        with trio.fail_after(1000):
            return await self._receive.receive()

    @property
    def dialled(self) -> int:
        return len(self._dialled)

    async def ended(self, *names: str) -> list[str]:
        with trio.fail_after(1000):
            while not all(name in self.endings for name in names):
                await trio.sleep(1)
        return [self.endings[name].outcome.value for name in names]

    async def done(self) -> None:
        for leg in (*self.legs, *self._dialled):
            leg.abort()


@asynccontextmanager
async def a_scene(*, advised: bool = False) -> AsyncIterator[Scene]:
    async with trio.open_nursery() as nursery:
        scene = Scene(nursery, advised=advised)
        try:
            yield scene
        finally:
            await scene.done()
            nursery.cancel_scope.cancel()


async def test_the_main_channel_is_dialled_first_and_the_others_in_order(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        main = scene.connect("main")
        channels = []
        for number in range(3):
            channel = scene.connect(str(number))
            await channel.say(b.multifd_init(UUID, number) + b"early pages")
            channels.append(channel)
            await wait_all_tasks_blocked()
        assert scene.dialled == 0, "nobody dials before the main channel has spoken"
        await main.say(b"QEVM/pages")
        there = await scene.accepted()
        assert await there.receive_exactly(10) == b"QEVM/pages"
        for number in range(3):
            peer = await scene.accepted()
            assert await peer.receive_exactly(75) == b.multifd_init(UUID, number) + b"early pages"
            await channels[number].say(b"more")
            assert await peer.receive_exactly(4) == b"more"
        await main.say(b"[state]")
        assert await there.receive_exactly(7) == b"<state>"
        await there.say(SHUT_0)
        await there.send_eof()
        assert await end_seen(main) == SHUT_0
        await main.send_eof()
        assert await scene.ended("main") == ["completed"]
        assert set(scene.endings) == {"main"}, "the channels go on until the source or the destination ends them"
        for channel in channels:
            await channel.send_eof()
        for leg in scene._dialled[1:]:
            assert await end_seen(leg) == b""
            await leg.send_eof()
        assert await scene.ended("0", "1", "2") == ["destination_gone"] * 3
    assert value(scene.metrics, "proxyd_channels_total", kind="multifd") == 3
    assert value(scene.metrics, "proxyd_migrations_total") == 1, "a channel is no migration"
    assert value(scene.metrics, "proxyd_bytes_total", direction="to_destination") == 10 + 3 * 79 + 7
    joined = [fields["migration"] for _, text, fields in scene.told.lines if "joins" in text]
    (begins,) = [fields["migration"] for _, text, fields in scene.told.lines if text == "migration begins"]
    assert joined == [begins] * 3


async def test_a_destination_that_reads_on_only_once_it_has_all_channels(autojump_clock: MockClock) -> None:
    """What has come of a channel by the time it is dialled may be more than the destination's socket holds."""
    async with a_scene() as scene:
        scene.capacity = 64
        main = scene.connect("main")
        for number in range(2):
            channel = scene.connect(str(number))
            await channel.say(b.multifd_init(UUID, number) + bytes(1000))
            await wait_all_tasks_blocked()
        await main.say(b"QEVM/" + b"pages" * 100)
        there, *others = [await scene.accepted() for _ in range(3)]
        for number, other in enumerate(others):
            assert await other.receive_exactly(1064) == b.multifd_init(UUID, number) + bytes(1000)
        assert await there.receive_exactly(505) == b"QEVM/" + b"pages" * 100


async def test_channels_that_connect_after_the_main_channel_has_spoken(autojump_clock: MockClock) -> None:
    """As QEMU 7.2 does."""
    async with a_scene() as scene:
        main = scene.connect("main")
        await main.say(b"QEVM/")
        await scene.accepted()
        channel = scene.connect("late")
        await channel.say(b.multifd_init(UUID))
        assert await (await scene.accepted()).receive_exactly(64) == b.multifd_init(UUID)


@pytest.mark.parametrize("end", [MemoryLeg.abort, MemoryLeg.close])
@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_channel_that_dies_takes_its_migration_down_and_only_that(
    side: str, end: Callable[[MemoryLeg], None], autojump_clock: MockClock
) -> None:
    async with a_scene() as scene:
        mains, channels, there = [], [], []
        for host in ("192.0.2.1", "192.0.2.2"):
            mains.append(scene.connect(f"main {host}", host))
            channels.append(scene.connect(f"channel {host}", host))
            await channels[-1].say(b.multifd_init(UUID))
            await mains[-1].say(b"QEVM/")
            there += [await scene.accepted(), await scene.accepted()]
        end(channels[0] if side == "source" else there[1])
        assert await reset_seen(mains[0]) == b""
        assert await reset_seen(there[0]) == b"QEVM/"
        assert await scene.ended("main 192.0.2.1") == [f"{side}_gone"]
        assert scene.endings["main 192.0.2.1"].reason.startswith(f"multifd channel 0 ended on the side of the {side}: ")
        await scene.ended("channel 192.0.2.1")
        await mains[1].say(b"goes on")
        assert await there[2].receive_exactly(12) == b"QEVM/goes on"


async def test_a_refused_main_channel_resets_the_channels_that_waited(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        main, channel = scene.connect("main"), scene.connect("channel")
        await channel.say(b.multifd_init(UUID))
        await wait_all_tasks_blocked()
        await main.say(b"QEVM?")
        assert await reset_seen(main) == b""
        assert await reset_seen(channel) == b""
        assert scene.dialled == 0
        assert await scene.ended("main", "channel") == ["refused", "source_gone"]


async def test_a_channel_without_a_main_channel(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        channel = scene.connect("channel")
        await channel.say(b.multifd_init(UUID))
        assert await reset_seen(channel) == b""
        assert await scene.ended("channel") == ["limit"]
        assert scene.endings["channel"].reason == (
            "a multifd channel came, and no main channel (5145564d, QEVM) from 192.0.2.1 within 30 s "
            "(limits.header_time_s)"
        )
        assert scene.dialled == 0
    assert value(scene.metrics, "proxyd_migrations_total", outcome="limit") == 1


async def test_a_destination_that_takes_no_more_channels(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        scene.refuse_after = 1
        main, channel = scene.connect("main"), scene.connect("channel")
        await channel.say(b.multifd_init(UUID))
        await main.say(b"QEVM/")
        assert await reset_seen(main) == b""
        assert await scene.ended("main", "channel") == ["destination_unreachable"] * 2
        assert scene.endings["main"].reason == "multifd channel 0: nobody is there"


async def test_too_many_channels(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration_module, "MAX_CHANNELS", 1)
    async with a_scene() as scene:
        main = scene.connect("main")
        await main.say(b"QEVM/")
        first, second = scene.connect("first"), scene.connect("second")
        await first.say(b.multifd_init(UUID))
        await wait_all_tasks_blocked()
        await second.say(b.multifd_init(UUID, 1))
        assert await reset_seen(second) == b""
        assert await scene.ended("second") == ["too_many_connections"]


async def test_channels_that_move_keep_their_migration_from_being_idle(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        main, channel = scene.connect("main"), scene.connect("channel")
        await channel.say(b.multifd_init(UUID))
        await main.say(b"QEVM/")
        await scene.accepted()
        peer = await scene.accepted()
        for _ in range(5):
            await trio.sleep(200)
            await channel.say(b"pages")
        assert "main" not in scene.endings
        await peer.receive_exactly(64 + 25)
        assert await reset_seen(main) == b""
        assert await scene.ended("main") == ["limit"]


async def test_a_silent_preempt_channel_is_dialled(autojump_clock: MockClock) -> None:
    async with a_scene(advised=True) as scene:
        main = scene.connect("main")
        await main.say(b"QEVM/")
        there = await scene.accepted()
        preempt = scene.connect("preempt")
        peer = await scene.accepted()
        await main.say(b"[package]and pages")
        assert await there.receive_exactly(5 + 9 + 9) == b"QEVM/<package>and pages"
        await preempt.say(b"an urgent page")
        assert await peer.receive_exactly(14) == b"an urgent page"
        await there.say(PONG_1)
        assert await main.receive_exactly(8) == PONG_1
        # Past the commit point its end is passed on, and is nobody else's.
        preempt.abort()
        assert await reset_seen(peer) == b""
        await main.say(b"more")
        assert await there.receive_exactly(4) == b"more"
    assert value(scene.metrics, "proxyd_channels_total", kind="preempt") == 1


async def test_a_preempt_channel_with_a_page_is_dialled_at_once(autojump_clock: MockClock) -> None:
    async with a_scene(advised=True) as scene:
        main = scene.connect("main")
        await main.say(b"QEVM/")
        await scene.accepted()
        preempt = scene.connect("preempt")
        began = trio.current_time()
        await preempt.say(b"\0\0\0\0\0\0\x10\x08")
        assert await (await scene.accepted()).receive_exactly(8) == b"\0\0\0\0\0\0\x10\x08"
        assert trio.current_time() == began


async def test_a_silent_connection_that_nobody_expects_is_never_dialled(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        main = scene.connect("main")
        await main.say(b"QEVM/")
        await scene.accepted()
        probe = scene.connect("probe")
        assert await reset_seen(probe) == b""
        assert await scene.ended("probe") == ["limit"]
        assert scene.dialled == 1


async def test_a_postcopy_that_recovers(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        main = scene.connect("main")
        await main.say(b.OPEN_RETURN_PATH + b"what it has to say")
        there = await scene.accepted()
        assert await there.receive_exactly(23) == b.OPEN_RETURN_PATH + b"what it has to say"
        preempt = scene.connect("preempt")
        peer = await scene.accepted()
        await trio.sleep(100_000)  # no limit of ours ends it: the guest runs at the destination
        await there.say(b"a page, please")
        assert await main.receive_exactly(14) == b"a page, please"
        await preempt.say(b"here")
        assert await peer.receive_exactly(4) == b"here"
        await main.send_eof()
        assert await end_seen(there) == b""
        await there.send_eof()
        assert await end_seen(main) == b""
        await scene.ended("main")
    assert value(scene.metrics, "proxyd_channels_total", kind="recovery") == 1
    assert ("INFO", "a postcopy migration recovers") in [(level, text) for level, text, _ in scene.told.lines]


async def test_a_recovery_that_finds_nobody(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        scene.refuse_after = 0
        main = scene.connect("main")
        await main.say(b.OPEN_RETURN_PATH)
        assert await reset_seen(main) == b""
        assert await scene.ended("main") == [Outcome.DESTINATION_UNREACHABLE.value]
