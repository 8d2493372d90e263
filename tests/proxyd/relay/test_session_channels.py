"""Several connections that are one migration: multifd. In memory, on a mock clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proxyd.relay import migration as migration_module
from proxyd.rewrite.firewall import FirewallMode, FirewallPolicy
from tests import builders as b
from tests.proxyd.relay.legs import MemoryLeg
from tests.proxyd.relay.scene import a_scene
from tests.proxyd.relay.stage import SHUT_0, end_seen, reset_seen, value

UUID = bytes(range(16))


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


async def test_a_source_that_gives_up_while_the_destination_is_dialled_never_reaches_it(
    autojump_clock: MockClock,
) -> None:
    async with a_scene() as scene:
        scene.may_connect = trio.Event()
        main, channel = scene.connect("main"), scene.connect("channel")
        await channel.say(b.multifd_init(UUID))
        await main.say(b"QEVM/unread pages")
        await wait_all_tasks_blocked()
        main.close()
        assert await scene.ended("main", "channel") == ["source_gone"] * 2
        assert scene.endings["main"].reason.startswith("the source closed the connection before ")
        assert scene.dialled == 0


async def test_channels_that_wait_for_their_turn_are_dialled_before_the_commit_point(
    autojump_clock: MockClock,
) -> None:
    async with a_scene() as scene:
        main = scene.connect("main")
        await main.say(b"QEVM/")
        there = await scene.accepted()
        assert await there.receive_exactly(5) == b"QEVM/"
        scene.may_connect = trio.Event()
        channel = scene.connect("channel")
        await channel.say(b.multifd_init(UUID))
        await main.say(b"[state]")
        await wait_all_tasks_blocked()
        assert scene.dialled == 1
        scene.refuse_after = 1
        scene.may_connect.set()
        assert await reset_seen(main) == b""
        assert await reset_seen(there) == b"", "no device state without the channel"
        assert await scene.ended("main") == ["destination_unreachable"]


async def test_a_channel_without_a_place_ends_its_migration(autojump_clock: MockClock) -> None:
    """The destination would wait for it for ever."""
    async with a_scene() as scene:
        scene.places = 2
        main = scene.connect("main")
        for number in range(2):
            await scene.connect(str(number)).say(b.multifd_init(UUID, number))
            await wait_all_tasks_blocked()
        await main.say(b"QEVM/")
        assert await scene.ended("main") == ["too_many_connections"]
        assert sorted(await scene.ended("0", "1")) == ["source_gone", "too_many_connections"]
        assert await reset_seen(main) == b""


async def test_a_migration_without_a_place_never_reaches_the_destination(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        scene.places = 0
        await scene.connect("main").say(b"QEVM/")
        await scene.connect("recovery", "192.0.2.2").say(b.RECV_BITMAP)
        assert await scene.ended("main", "recovery") == ["too_many_connections"] * 2
        assert scene.dialled == 0


# The firewall looks at the packets of multifd channels.

BAD_PACKET = b.multifd_packet(1, flags=b.MULTIFD_ZSTD, size=1 << 30)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_denied_packet_ends_its_migration_and_is_not_delivered(
    at_once: bool, autojump_clock: MockClock
) -> None:
    async with a_scene() as scene:
        scene.firewall = FirewallPolicy(FirewallMode.DENY)
        main, channel = scene.connect("main"), scene.connect("channel")
        good = b.multifd_packet(1) + bytes(b.PAGE)
        await channel.say(b.multifd_init(UUID) + good + (BAD_PACKET if at_once else b""))
        await wait_all_tasks_blocked()
        await main.say(b"QEVM/")
        await scene.accepted()
        there = await scene.accepted()
        if not at_once:
            assert await there.receive_exactly(64 + len(good)) == b.multifd_init(UUID) + good
            await channel.say(BAD_PACKET[:100])
            assert await there.receive_exactly(100) == BAD_PACKET[:100], "no QEMU acts on a part of a header"
            await channel.say(BAD_PACKET[100:])
        seen = await reset_seen(there)
        assert seen == (b.multifd_init(UUID) if at_once else b"")
        assert await reset_seen(main) == b""
        assert (await scene.ended("main", "channel"))[0] == "refused"
        reason = scene.endings["main"].reason
        assert reason.startswith("multifd channel 0: firewall: multifd packet: next_packet_size of 1 to 1048576")
    assert value(scene.metrics, "proxyd_firewall_findings_total", rule="multifd", mode="deny") == 1


async def test_an_alert_is_told_and_everything_passes(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        scene.firewall = FirewallPolicy(FirewallMode.ALERT)
        main, channel = scene.connect("main"), scene.connect("channel")
        await channel.say(b.multifd_init(UUID) + BAD_PACKET + b"packed pages")
        await wait_all_tasks_blocked()
        await main.say(b"QEVM/$")
        await scene.accepted()
        there = await scene.accepted()
        assert await there.receive_exactly(64 + len(BAD_PACKET) + 12) == b.multifd_init(UUID) + BAD_PACKET + (
            b"packed pages"
        )
    assert value(scene.metrics, "proxyd_firewall_findings_total", rule="multifd", mode="alert") == 1
    assert value(scene.metrics, "proxyd_firewall_findings_total", rule="section", mode="alert") == 1
    told = [text for _, text, _ in scene.told.lines if text.startswith("firewall: ")]
    assert len(told) == 2


async def test_a_stream_of_unknown_pages_has_packets_that_nobody_reads(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        scene.firewall = FirewallPolicy(FirewallMode.ALERT)
        main, channel = scene.connect("main"), scene.connect("channel")
        await channel.say(b.multifd_init(UUID) + b"whatever")
        await wait_all_tasks_blocked()
        scene.page_size = None
        await main.say(b"QEVM~")
        await scene.accepted()
        assert await (await scene.accepted()).receive_exactly(72) == b.multifd_init(UUID) + b"whatever"
    assert value(scene.metrics, "proxyd_firewall_findings_total") == 0
