"""Postcopy: the preempt channel, breaks, recoveries. In memory, on a mock clock."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proxyd.relay.outcome import Outcome
from proxyd.relay.preempt import AT_SETUP_S, BEFORE_SWITCH_S, SETTLE_S
from tests import builders as b
from tests.proxyd.relay.legs import MemoryLeg
from tests.proxyd.relay.scene import Scene, a_scene
from tests.proxyd.relay.stage import PONG_1, SHUT_0, SHUT_1, end_seen, reset_seen, value

REQ_PAGES = b"\0\4\0\x0c" + bytes(12)


async def a_main(scene: Scene) -> tuple[MemoryLeg, MemoryLeg]:
    """A main channel in its memory phase, and its end at the destination."""
    main = scene.connect("main")
    await main.say(b"QEVM/")
    there = await scene.accepted()
    assert await there.receive_exactly(5) == b"QEVM/"
    return main, there


async def switched(main: MemoryLeg, there: MemoryLeg) -> None:
    await main.say(b"{package}")
    assert await there.receive_exactly(9) == b"<package>"
    await there.say(PONG_1)
    assert await main.receive_exactly(8) == PONG_1


async def test_a_silent_preempt_channel_is_dialled_at_the_switch(autojump_clock: MockClock) -> None:
    async with a_scene(advised=True) as scene:
        main, there = await a_main(scene)
        preempt = scene.connect("preempt")
        await trio.sleep(1)
        assert scene.dialled == 1, "the source has not switched"
        began = trio.current_time()
        await switched(main, there)
        peer = await scene.accepted()
        assert trio.current_time() == began
        await preempt.say(b"an urgent page")
        assert await peer.receive_exactly(14) == b"an urgent page"
        # Past the commit point its end is passed on, and is nobody else's.
        preempt.abort()
        assert await reset_seen(peer) == b""
        await main.say(b"more")
        assert await there.receive_exactly(4) == b"more"
    assert value(scene.metrics, "proxyd_channels_total", kind="preempt") == 1


async def test_an_old_machine_types_preempt_channel_is_dialled_at_set_up(autojump_clock: MockClock) -> None:
    async with a_scene(advised=True, machine="virt-7.2") as scene:
        main = scene.connect("main")
        scene.connect("preempt")
        await main.say(b"QEVM/")
        await scene.accepted()
        await scene.accepted()
        assert trio.current_time() < AT_SETUP_S


@pytest.mark.parametrize("machine", ["virt-7.2", "virt-10.0"])
async def test_a_probe_before_the_switch_is_never_dialled(machine: str, autojump_clock: MockClock) -> None:
    async with a_scene(advised=True, machine=machine) as scene:
        main, there = await a_main(scene)
        await trio.sleep(AT_SETUP_S + 1)
        probe = scene.connect("probe")
        await trio.sleep(BEFORE_SWITCH_S + 1)
        await switched(main, there)
        assert await reset_seen(probe) == b""
        assert await scene.ended("probe") == ["limit"]
        assert scene.dialled == 1


async def test_of_two_silent_connections_the_later_one_is_the_preempt_channel(autojump_clock: MockClock) -> None:
    async with a_scene(advised=True) as scene:
        main, there = await a_main(scene)
        probe = scene.connect("probe")
        preempt = scene.connect("preempt")
        await switched(main, there)
        peer = await scene.accepted()
        await preempt.say(b"a page")
        assert await peer.receive_exactly(6) == b"a page"
        assert await reset_seen(probe) == b""
        assert scene.dialled == 2


async def test_a_silent_connection_that_speaks_at_the_switch_is_what_it_says(autojump_clock: MockClock) -> None:
    async with a_scene(advised=True) as scene:
        main, there = await a_main(scene)
        other = scene.connect("other")
        await other.say(b"QE")
        await wait_all_tasks_blocked()
        await switched(main, there)
        await other.say(b"VM/")
        assert await (await scene.accepted()).receive_exactly(5) == b"QEVM/"


async def test_a_destination_that_refuses_the_preempt_channel_is_found_out_before_the_commit_point(
    autojump_clock: MockClock,
) -> None:
    async with a_scene(advised=True) as scene:
        main, there = await a_main(scene)
        scene.connect("preempt")
        await wait_all_tasks_blocked()
        scene.refuse_after = 1
        await main.say(b"{package}")
        assert await reset_seen(there) == b""
        assert await reset_seen(main) == b""
        assert await scene.ended("main") == ["destination_unreachable"]
        assert scene.endings["main"].reason == "a preempt channel: nobody is there"


async def test_a_preempt_channel_that_comes_late_is_dialled_with_its_first_page(autojump_clock: MockClock) -> None:
    async with a_scene(advised=True) as scene:
        main, there = await a_main(scene)
        await switched(main, there)
        preempt = scene.connect("preempt")
        began = trio.current_time()
        await preempt.say(b"\0\0\0\0\0\0\x10\x08")
        assert await (await scene.accepted()).receive_exactly(8) == b"\0\0\0\0\0\0\x10\x08"
        assert trio.current_time() == began


async def test_what_has_no_magic_before_the_switch_is_no_channel(autojump_clock: MockClock) -> None:
    async with a_scene(advised=True) as scene:
        await a_main(scene)
        stranger = scene.connect("stranger")
        await stranger.say(b"\0\0\0\0\0\0\x10\x08")
        assert await reset_seen(stranger) == b""
        assert await scene.ended("stranger") == ["not_migration"]


async def test_a_stream_that_cannot_be_read_has_a_preempt_channel_at_any_time(autojump_clock: MockClock) -> None:
    async with a_scene(advised=True, machine="pc-q35-9.0") as scene:
        main = scene.connect("main")
        await main.say(b"QEVM~")
        await scene.accepted()
        await trio.sleep(1000)
        scene.connect("preempt")
        await scene.accepted()


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_postcopy_that_breaks(side: str, autojump_clock: MockClock) -> None:
    async with a_scene(advised=True) as scene:
        main, there = await a_main(scene)
        await switched(main, there)
        await there.say(REQ_PAGES)
        assert await main.receive_exactly(16) == REQ_PAGES
        if side == "source":
            main.abort()
            assert await end_seen(there) == b""
            there.close()
        else:
            there.abort()
            assert await reset_seen(main) == b""
        assert await scene.ended("main") == ["postcopy_broken"]
    assert scene.endings["main"].reason.startswith(f"the {side}'s connection broke in postcopy: ")


async def test_a_package_that_does_not_load_is_no_broken_postcopy(autojump_clock: MockClock) -> None:
    async with a_scene(advised=True) as scene:
        main, there = await a_main(scene)
        await switched(main, there)
        await there.say(SHUT_1)
        there.close()
        assert await end_seen(main) == SHUT_1
        main.close()
        assert await scene.ended("main") == ["destination_failed"]


async def test_a_postcopy_that_recovers(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        main = scene.connect("main")
        await main.say(b.RECV_BITMAP + b"{what it has to say}")
        there = await scene.accepted()
        said = b.RECV_BITMAP + b"{what it has to say}"
        assert await there.receive_exactly(len(said)) == said
        preempt = scene.connect("preempt")
        peer = await scene.accepted()
        await trio.sleep(100_000)  # no limit of ours ends it: the guest runs at the destination
        await there.say(REQ_PAGES)
        assert await main.receive_exactly(16) == REQ_PAGES
        await preempt.say(b"here")
        assert await peer.receive_exactly(4) == b"here"
        await there.say(SHUT_0)
        await there.send_eof()
        assert await end_seen(main) == SHUT_0
        await main.send_eof()
        assert await end_seen(there) == b""
        assert await scene.ended("main") == ["completed"]
    assert value(scene.metrics, "proxyd_channels_total", kind="recovery") == 1
    assert value(scene.metrics, "proxyd_migrations_total", outcome="completed") == 1
    assert value(scene.metrics, "proxyd_hold_seconds_count") == 0
    assert ("INFO", "a postcopy migration recovers") in [(level, text) for level, text, _ in scene.told.lines]


async def test_a_preempt_channel_that_was_accepted_before_its_recovery_spoke(autojump_clock: MockClock) -> None:
    """QEMU 7.2 connects both and then speaks."""
    async with a_scene() as scene:
        main = scene.connect("main")
        scene.connect("preempt")
        await main.say(b.RECV_BITMAP)
        await scene.accepted()
        await scene.accepted()
        assert trio.current_time() < 1


async def test_a_recovery_that_finds_nobody(autojump_clock: MockClock) -> None:
    async with a_scene() as scene:
        scene.refuse_after = 0
        main = scene.connect("main")
        await main.say(b.RECV_BITMAP)
        assert await reset_seen(main) == b""
        assert await scene.ended("main") == [Outcome.DESTINATION_UNREACHABLE.value]


@pytest.mark.parametrize(("machine", "seconds"), [("virt-7.2", SETTLE_S), ("virt-10.0", 0)])
async def test_a_source_that_sets_up_its_preempt_channel_is_not_reset_meanwhile(
    machine: str, seconds: float, autojump_clock: MockClock
) -> None:
    """QEMU 7.2 aborts if its migration fails then."""
    async with a_scene(advised=True, machine=machine) as scene:
        began = trio.current_time()
        main = scene.connect("main")
        await main.say(b"QEVM?")
        assert await reset_seen(main) == b""
        assert trio.current_time() - began == pytest.approx(seconds)
        assert await scene.ended("main") == ["refused"]
