"""A main channel past its commit point is a wire, and its outcome is what the return path said."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.proxyd.relay.stage import (
    PONG_1,
    SHUT_0,
    SHUT_1,
    ScriptedRewriter,
    Stage,
    a_route,
    end_seen,
    released,
    reset_seen,
    staged,
)


async def test_silence_after_the_commit_point_is_waited_out(autojump_clock: MockClock) -> None:
    async with staged(a_route(idle_s=10)) as stage:
        destination = await released(stage)
        await trio.sleep(90_000)
        await destination.say(SHUT_0)
        assert await stage.source.receive_exactly(8) == SHUT_0
        destination.close()
        stage.source.close()
        assert await stage.outcome() == "completed"


async def test_keepalive_is_off_from_the_commit_point_until_the_destination_has_ended(
    autojump_clock: MockClock,
) -> None:
    async with staged() as stage:
        destination = await released(stage)
        assert stage.proxy_to_source.keepalives == [False]
        assert stage.proxy_to_destination.keepalives == [False]
        await destination.say(SHUT_0)
        destination.close()
        await end_seen(stage.source)
        await wait_all_tasks_blocked()
        assert stage.proxy_to_source.keepalives == [False, True]
        stage.source.close()


async def test_nobody_can_abandon_a_committed_migration(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await released(stage)
        assert not stage.session.abandon(stage.ending)
        await destination.say(SHUT_0)
        assert await stage.source.receive_exactly(8) == SHUT_0
        destination.close()
        stage.source.close()
        assert await stage.outcome() == "completed"


async def test_a_stopped_daemon_does_not_cut_a_committed_migration(autojump_clock: MockClock) -> None:
    stage = Stage(a_route(), ScriptedRewriter, None)
    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        destination = await released(stage)
        nursery.cancel_scope.cancel()

        async def play() -> None:
            await trio.sleep(50)
            await destination.say(SHUT_0)
            destination.close()
            assert await end_seen(stage.source) == SHUT_0
            stage.source.close()

        outer.start_soon(play)
    assert await stage.outcome() == "completed"


async def test_a_source_that_dies_after_the_commit_point_does_not_stop_the_delivery(autojump_clock: MockClock) -> None:
    async with staged(capacity=4) as stage:
        await stage.source.say(b"QEVM/ram[state]")
        destination = await stage.destination()
        await destination.receive_exactly(1)
        await wait_all_tasks_blocked()
        assert stage.session.committed
        stage.source.abort()
        assert await end_seen(destination) == b"EVM/ram<state>"
        await destination.say(SHUT_0)
        destination.close()
        assert await stage.outcome() == "completed"
    assert (
        "the source's connection broke in phase released: connection reset by peer; "
        "what it had sent is delivered all the same"
    ) in stage.told.texts()


async def test_a_source_that_closes_after_the_commit_point_still_gets_the_verdict(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await released(stage)
        await stage.source.send_eof()
        assert await end_seen(destination) == b""
        await destination.say(SHUT_0)
        destination.close()
        assert await end_seen(stage.source) == SHUT_0
        assert await stage.outcome() == "completed"


async def test_a_verdict_that_cannot_be_passed_on_is_still_heard(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await released(stage)
        await stage.source.send_eof()
        await end_seen(destination)
        stage.source.abort()
        await destination.say(SHUT_0)
        await destination.say(PONG_1)
        destination.close()
        assert await stage.outcome() == "completed"
    assert len([text for text in stage.told.texts() if "broke" in text]) == 1


async def test_a_destination_that_fails_to_load_says_so_to_the_source(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await released(stage)
        await destination.say(SHUT_1)
        destination.abort()
        assert await end_seen(stage.source) == SHUT_1
        stage.source.close()
        assert await stage.outcome() == "destination_failed"


async def test_fin_without_a_verdict_becomes_fin(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await released(stage)
        destination.close()
        assert await end_seen(stage.source) == b""
        stage.source.close()
        assert await stage.outcome() == "destination_failed"
        assert stage.ending.reason == "the destination ended without a SHUT: it closed the connection"


async def test_rst_without_a_verdict_becomes_rst(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await released(stage)
        destination.abort()
        assert await reset_seen(stage.source) == b""
        assert await stage.outcome() == "destination_failed"
        assert stage.ending.reason == "the destination ended without a SHUT: its connection broke"


async def test_rst_after_a_verdict_becomes_fin(autojump_clock: MockClock) -> None:
    """QEMU may close with unread data, and an RST could overtake the SHUT in the proxy's send buffer."""
    async with staged() as stage:
        destination = await released(stage)
        await destination.say(SHUT_0)
        destination.abort()
        assert await end_seen(stage.source) == SHUT_0
        stage.source.close()
        assert await stage.outcome() == "completed"


async def test_what_the_source_says_after_the_destination_has_ended_is_dropped(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await released(stage)
        await destination.say(SHUT_0)
        destination.close()
        assert await end_seen(stage.source) == SHUT_0
        await stage.source.say(b"late")
        await stage.source.say(b"later")
        await wait_all_tasks_blocked()
        assert not stage.proxy_to_source.is_closed
        stage.source.close()
        assert await stage.outcome() == "completed"


async def test_a_destination_that_dies_while_it_is_written_to_after_the_commit_point_is_read_to_its_end(
    autojump_clock: MockClock,
) -> None:
    async with staged(capacity=4) as stage:
        await stage.source.say(b"QEVM/ram[state]")
        destination = await stage.destination()
        await destination.receive_exactly(1)
        await wait_all_tasks_blocked()
        destination.abort()
        assert await reset_seen(stage.source) == b""
        assert await stage.outcome() == "destination_failed"
    assert stage.session.committed


async def test_a_destination_that_half_closed_and_then_dies_resets_the_source(autojump_clock: MockClock) -> None:
    """Otherwise the source of another architecture would go on sending memory to nobody."""
    async with staged() as stage:
        await stage.source.say(b"QEVM~ram")
        destination = await stage.destination()
        await destination.receive_exactly(8)
        await destination.send_eof()
        assert await end_seen(stage.source) == b""
        await stage.source.say(b"more")
        assert await destination.receive_exactly(4) == b"more"
        destination.close()
        await stage.source.say(b"and more")
        await wait_all_tasks_blocked()
        assert await reset_seen(stage.source) == b""
        assert await stage.outcome() == "destination_failed"
        assert stage.ending.reason == "the destination's connection broke"


async def test_a_source_of_another_architecture_that_dies_is_not_called_delivered(autojump_clock: MockClock) -> None:
    async with staged(make_rewriter=lambda: ScriptedRewriter(return_path=False)) as stage:
        await stage.source.say(b"QEVM~ram")
        destination = await stage.destination()
        await destination.receive_exactly(8)
        stage.source.abort()
        assert await end_seen(destination) == b""
        destination.close()
        assert await stage.outcome() == "source_gone"


async def test_a_return_path_that_cannot_be_read_is_passed_on_all_the_same(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await released(stage)
        garbage = b"\xff\xff\x00\x00"
        await destination.say(garbage)
        assert await stage.source.receive_exactly(4) == garbage
        await destination.say(SHUT_0)
        assert await stage.source.receive_exactly(8) == SHUT_0
        destination.close()
        stage.source.close()
        assert await stage.outcome() == "destination_failed"
    assert (
        "at 0x8: return path: expected a message type from 1 to 7, found 65535; passed on as it is, no longer read"
    ) in stage.told.texts()
