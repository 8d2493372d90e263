"""Conversations through the relay, each up to its outcome; in memory, on a mock clock."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.proxyd.relay.legs import MemoryLeg
from tests.proxyd.relay.stage import (
    PONG_1,
    SHUT_0,
    SHUT_1,
    ScriptedRewriter,
    a_route,
    end_seen,
    in_memory_phase,
    released,
    reset_seen,
    staged,
)


async def nothing_came(leg: MemoryLeg) -> bool:
    with trio.move_on_after(5):
        return not await leg.receive_some() and False
    return True


# The way it should go.


async def test_a_migration_completes_and_each_end_closes_in_its_turn(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await released(stage)
        await stage.source.say(b"vmdesc")
        assert await destination.receive_exactly(6) == b"vmdesc"
        await destination.say(SHUT_0)
        assert await stage.source.receive_exactly(8) == SHUT_0
        destination.close()
        assert await end_seen(stage.source) == b""
        assert not stage.proxy_to_source.is_closed, "the source's leg was closed first"
        stage.source.close()
        assert await stage.outcome() == "completed"
    assert not stage.proxy_to_source.was_aborted
    assert not stage.proxy_to_destination.was_aborted


async def test_device_state_is_held_back_until_it_is_whole(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await in_memory_phase(stage)
        await stage.source.say(b"x[st")
        assert await destination.receive_exactly(1) == b"x"
        assert await nothing_came(destination)
        assert not stage.session.committed
        assert stage.sample("proxyd_held_bytes") == 3
        assert stage.sample("proxyd_active_sessions", phase="holding") == 1
        await stage.source.say(b"ate]")
        assert await destination.receive_exactly(7) == b"<state>"
        assert stage.session.committed
        assert stage.sample("proxyd_held_bytes") == 0
        stage.source.abort()
        destination.abort()


async def test_the_return_path_flows_while_the_stream_does_not(autojump_clock: MockClock) -> None:
    async with staged(capacity=4) as stage:
        await stage.source.say(b"QEVM/ram")
        destination = await stage.destination()
        await wait_all_tasks_blocked()
        # The destination has read nothing, and the stream is stuck.
        await destination.say(PONG_1)
        assert await stage.source.receive_exactly(8) == PONG_1
        stage.source.abort()


async def test_without_a_return_path_everything_is_delivered_and_nobody_says_how_it_went(
    autojump_clock: MockClock,
) -> None:
    async with staged(make_rewriter=lambda: ScriptedRewriter(return_path=False)) as stage:
        await stage.source.say(b"QEVM/ram[plain]")
        destination = await stage.destination()
        stage.source.close()
        assert await end_seen(destination) == b"QEVM/ram<plain>"
        destination.close()
        assert await stage.outcome() == "delivered"
    assert "nothing is rewritten: no destination is described" in stage.told.texts()


async def test_a_stream_that_is_whole_only_at_its_end_is_released_then(autojump_clock: MockClock) -> None:
    async with staged(make_rewriter=lambda: ScriptedRewriter(return_path=False)) as stage:
        await stage.source.say(b"QEVM/ram[whole")
        destination = await stage.destination()
        assert await destination.receive_exactly(8) == b"QEVM/ram"
        await stage.source.send_eof()
        assert await end_seen(destination) == b"<whole>"
        destination.close()
        assert await end_seen(stage.source) == b""
        assert await stage.outcome() == "delivered"


async def test_another_architecture_passes_untouched_without_limits(autojump_clock: MockClock) -> None:
    async with staged(a_route(idle_s=10)) as stage:
        await stage.source.say(b"QEVM~ram[x]")
        destination = await stage.destination()
        assert await destination.receive_exactly(11) == b"QEVM~ram[x]"
        await trio.sleep(1000)
        await destination.say(SHUT_0)
        destination.close()
        assert await end_seen(stage.source) == SHUT_0
        stage.source.close()
        assert await stage.outcome() == "completed"
    assert "nothing is rewritten: another architecture" in stage.told.texts()


# Before the commit point: whatever happens, both sides are reset.


@pytest.mark.parametrize(
    ("said", "outcome", "reason"),
    [
        (b"!", "bad_stream", "not a stream"),
        (b"?", "refused", "against the rules"),
        (b"^", "limit", "more than the limit"),
        (b"&", "unsupported", "postcopy is not supported by this version"),
        (b"[st!", "bad_stream", "not a stream"),
        (b"[st?", "refused", "against the rules"),
    ],
)
async def test_what_cannot_be_carried_resets_both_sides(
    said: bytes, outcome: str, reason: str, autojump_clock: MockClock
) -> None:
    async with staged() as stage:
        destination = await in_memory_phase(stage)
        await stage.source.say(said)
        assert await reset_seen(stage.source) == b""
        assert await reset_seen(destination) == b""
        assert await stage.outcome() == outcome
        assert stage.ending.reason == reason
    assert stage.sample("proxyd_migrations_total", route="lab", outcome=outcome) == 1
    refused = 1 if outcome == "refused" else 0
    assert stage.sample("proxyd_registers_total", action="refuse", verdict="unknown") == refused


async def test_a_refusal_is_logged_with_its_register(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        await in_memory_phase(stage)
        await stage.source.say(b"?")
        await stage.outcome()
    lines = [line for line in stage.told.lines if "nobody knows it" in line[1]]
    assert [(level, fields["verdict"]) for level, _, fields in lines] == [("WARNING", "unknown")]


async def test_a_bug_of_ours_resets_both_sides_and_stays_in_its_session(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await in_memory_phase(stage)
        await stage.source.say(b"#")
        assert await reset_seen(stage.source) == b""
        assert await reset_seen(destination) == b""
        assert await stage.outcome() == "internal_error"
    assert ("ERROR", "a bug of proxyd's; please report it with these lines") in [line[:2] for line in stage.told.lines]


@pytest.mark.parametrize("so_far", [b"", b"[sta"])
async def test_a_source_that_dies_resets_the_destination(so_far: bytes, autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await in_memory_phase(stage)
        await stage.source.say(so_far)
        await wait_all_tasks_blocked()
        stage.source.abort()
        assert await reset_seen(destination) == b""
        assert await stage.outcome() == "source_gone"
        phase = "holding" if so_far else "memory"
        assert stage.ending.reason == f"the source's connection broke in phase {phase}: connection reset by peer"


async def test_a_source_that_closes_too_early_resets_both(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await in_memory_phase(stage)
        await stage.source.say(b"[sta")
        await stage.source.send_eof()
        assert await reset_seen(destination) == b""
        assert await reset_seen(stage.source) == b""
        assert await stage.outcome() == "source_gone"
        assert stage.ending.reason == "the source closed the connection: the stream ended too early"


async def test_a_source_that_closes_on_an_odd_stream_resets_both(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await in_memory_phase(stage)
        await stage.source.say(b"[odd")
        await stage.source.send_eof()
        assert await reset_seen(destination) == b""
        assert await stage.outcome() == "bad_stream"


async def test_a_source_that_closes_while_the_rewriter_is_not_done_resets_both(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await in_memory_phase(stage)
        await stage.source.say(b"[open")
        await stage.source.send_eof()
        assert await reset_seen(destination) == b""
        assert await stage.outcome() == "source_gone"
        assert stage.ending.reason == (
            "the source closed the connection: the stream ended while waiting for the next act"
        )


async def test_a_source_that_dies_is_noticed_on_the_return_path(autojump_clock: MockClock) -> None:
    async with staged(capacity=4) as stage:
        await stage.source.say(b"QEVM/ram")
        destination = await stage.destination()
        await stage.source.say(b"more")
        await wait_all_tasks_blocked()  # the stream is stuck, so nobody receives from the source
        stage.source.abort()
        await destination.say(PONG_1)
        assert await reset_seen(destination) == b"QEVM/ram"
        assert await stage.outcome() == "source_gone"


@pytest.mark.parametrize("so_far", [b"", b"[sta"])
async def test_a_destination_that_closes_resets_the_source(so_far: bytes, autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await in_memory_phase(stage)
        await stage.source.say(so_far)
        destination.close()
        assert await reset_seen(stage.source) == b""
        assert await stage.outcome() == "destination_gone"
        assert stage.ending.reason == ("the destination was lost before the commit point: it closed the connection")


async def test_a_destination_that_resets_resets_the_source(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await in_memory_phase(stage)
        destination.abort()
        assert await reset_seen(stage.source) == b""
        assert await stage.outcome() == "destination_gone"
        assert stage.ending.reason == "the destination was lost before the commit point: its connection broke"


async def test_a_destination_that_says_why_before_it_dies_is_heard(autojump_clock: MockClock) -> None:
    """QEMU 9.1 and newer send SHUT(1) when a load fails, and close with unread data: RST."""
    async with staged() as stage:
        destination = await in_memory_phase(stage)
        await destination.say(SHUT_1)
        destination.abort()
        await stage.source.say(b"ram")  # whose delivery fails
        assert await reset_seen(stage.source) == SHUT_1
        assert await stage.outcome() == "destination_failed"
        assert "SHUT(1)" in stage.ending.reason


@pytest.mark.parametrize("so_far", [b"QEVM/ram", b"QEVM/ram[sta"])
async def test_a_success_before_the_commit_point_is_kept_from_the_source(
    so_far: bytes, autojump_clock: MockClock
) -> None:
    """The source would stop listening, and call the migration complete whatever became of its device state."""
    async with staged() as stage:
        await stage.source.say(so_far)
        destination = await stage.destination()
        await destination.say(PONG_1)
        assert await stage.source.receive_exactly(8) == PONG_1
        await destination.say(SHUT_0)
        assert await reset_seen(stage.source) == b""
        assert await stage.outcome() == "destination_failed"
        assert "SHUT(0) before it had the device state" in stage.ending.reason


async def test_a_destination_that_breaks_while_it_is_written_to_never_sees_the_device_state(
    autojump_clock: MockClock,
) -> None:
    async with staged(capacity=4) as stage:
        await stage.source.say(b"QEVM/ram")
        destination = await stage.destination()
        await wait_all_tasks_blocked()
        destination.abort()
        await stage.outcome()
        with pytest.raises(trio.BrokenResourceError):
            await stage.source.say(b"[state]")
        assert await stage.outcome() == "destination_gone"
    assert not stage.session.committed


async def test_silence_before_the_commit_point_ends_with_a_reset(autojump_clock: MockClock) -> None:
    async with staged(a_route(idle_s=100)) as stage:
        destination = await in_memory_phase(stage)
        began = trio.current_time()
        assert await reset_seen(stage.source) == b""
        assert trio.current_time() - began == pytest.approx(100)
        assert await reset_seen(destination) == b""
        assert await stage.outcome() == "limit"
        assert stage.ending.reason == "nothing moved for 100 s (limits.idle_time_s) while waiting for the next act"


@pytest.mark.parametrize(
    ("held", "outcome", "more"),
    [(b"[sta", "bad_stream", ": the stream ended too early"), (b"[open", "limit", "")],
)
async def test_silence_while_device_state_is_held_is_downtime_and_ends_sooner(
    held: bytes, outcome: str, more: str, autojump_clock: MockClock
) -> None:
    async with staged(a_route(idle_s=100, hold_idle_s=7)) as stage:
        destination = await in_memory_phase(stage)
        await trio.sleep(50)
        began = trio.current_time()
        await stage.source.say(held)
        assert await reset_seen(stage.source) == b""
        assert trio.current_time() - began == pytest.approx(7)
        assert await reset_seen(destination) == b""
        assert await stage.outcome() == outcome
        assert stage.ending.reason == (
            f"nothing moved for 7 s (limits.hold_idle_time_s) with {len(held)} bytes of device state held{more}"
        )


async def test_device_state_that_trickles_in_is_downtime_too(autojump_clock: MockClock) -> None:
    async with staged(a_route(idle_s=100, hold_idle_s=7, hold_s=60)) as stage:
        destination = await in_memory_phase(stage)
        began = trio.current_time()
        await stage.source.say(b"[")
        with suppress(trio.BrokenResourceError):
            while True:
                await trio.sleep(1)
                await stage.source.say(b"s")
        assert trio.current_time() - began == pytest.approx(61, abs=2)
        assert await reset_seen(destination) == b""
        assert await stage.outcome() == "limit"
        assert stage.ending.reason == (
            "the whole device state expected within 60 s (limits.hold_time_s), found 60 bytes of it"
        )


@pytest.mark.parametrize("talker", ["source", "destination"])
async def test_a_byte_in_either_direction_is_not_silence(talker: str, autojump_clock: MockClock) -> None:
    async with staged(a_route(idle_s=10)) as stage:
        destination = await in_memory_phase(stage)
        for _ in range(10):
            await trio.sleep(9)
            if talker == "source":
                await stage.source.say(b"r")
                await destination.receive_exactly(1)
            else:
                await destination.say(PONG_1)
                await stage.source.receive_exactly(8)
        assert not stage.ended.is_set()


# What is told.


async def test_bytes_are_counted_as_they_go(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        await in_memory_phase(stage)
        assert stage.sample("proxyd_bytes_total", direction="to_destination") == 8
        assert stage.sample("proxyd_bytes_total", direction="to_source") == 8
        stage.source.abort()


async def test_each_change_is_logged_and_counted_after_the_release(autojump_clock: MockClock) -> None:
    async with staged() as stage:
        destination = await released(stage)
        await wait_all_tasks_blocked()
        (line,) = [line for line in stage.told.lines if line[1] == "register removed"]
        assert line[2]["register"] == "TCR2_EL1 (0x603000000013c103)"
        assert line[2]["migration"] == stage.session.record.id
        assert "the destination invents it" in stage.told.texts()
        assert stage.sample("proxyd_registers_total", action="remove", verdict="proven") == 1
        assert stage.sample("proxyd_hold_seconds_count", route="lab") == 1
        assert stage.sample("proxyd_rewrite_seconds_count", route="lab") == 1
        stage.source.abort()
        destination.abort()
