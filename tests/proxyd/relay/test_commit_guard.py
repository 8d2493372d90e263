"""Who may end a migration, and until when."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from proxyd.relay.commit_guard import CommitGuard
from proxyd.relay.outcome import Ending, Outcome

DRAINED = Ending(Outcome.DRAINED, "enough")
OVER = Ending(Outcome.LIMIT, "10 s are over")
LATER = Ending(Outcome.LIMIT, "20 s are over")
GONE = Ending(Outcome.SOURCE_GONE, "gone")


async def test_an_abandoned_migration_is_cancelled_with_the_first_reason() -> None:
    guard = CommitGuard()
    with guard.scope as scope:
        assert not guard.abandoned
        assert guard.abandon(DRAINED)
        assert guard.abandon(GONE)
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert guard.abandoned
    assert guard.ending == DRAINED


async def test_a_committed_migration_cannot_be_abandoned() -> None:
    guard = CommitGuard()
    with guard.scope as scope:
        await guard.commit()
        assert not guard.abandon(DRAINED)
        await trio.lowlevel.checkpoint()
    assert not scope.cancelled_caught
    assert guard.committed
    assert not guard.abandoned


async def test_committing_waits_for_nothing() -> None:
    """Between the decision and the first byte nothing else may run."""
    guard = CommitGuard()
    with guard.scope, trio.testing.assert_no_checkpoints():
        await guard.commit()


async def test_an_abandoned_migration_cannot_commit() -> None:
    guard = CommitGuard()
    committed = False
    with guard.scope:
        guard.abandon(DRAINED)
        await guard.commit()
        committed = True
    assert not committed
    assert not guard.committed


async def test_a_daemon_that_is_cancelled_in_the_same_moment_cannot_half_commit() -> None:
    """Both tasks of a relay were to run next; shielding one of them would not save it from the other's end."""
    guard = CommitGuard()
    delivered: list[str] = []

    async def forward(go: trio.Event) -> None:
        await go.wait()
        await guard.commit()
        delivered.append("some of it")

    async with trio.open_nursery() as outer:
        with guard.scope:
            async with trio.open_nursery() as relay:
                go = trio.Event()
                relay.start_soon(forward, go)
                relay.start_soon(trio.sleep_forever)
                await trio.testing.wait_all_tasks_blocked()
                go.set()
                outer.cancel_scope.cancel()
    assert not guard.committed
    assert not delivered


async def test_a_limit_expires(autojump_clock: MockClock) -> None:
    guard = CommitGuard()
    with guard.scope as scope:
        guard.allow(lambda: 10, lambda: OVER)
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 10
    assert guard.ending == OVER


async def test_progress_begins_the_limit_anew(autojump_clock: MockClock) -> None:
    guard = CommitGuard()
    with guard.scope:
        guard.allow(lambda: 10, lambda: OVER)
        await trio.sleep(9)
        guard.progress()
        await trio.sleep_forever()
    assert trio.current_time() == 19


async def test_the_later_limit_replaces_the_earlier(autojump_clock: MockClock) -> None:
    guard = CommitGuard()
    with guard.scope:
        guard.allow(lambda: 10, lambda: OVER)
        guard.allow(lambda: 20, lambda: LATER)
        await trio.sleep_forever()
    assert trio.current_time() == 20
    assert guard.ending == LATER


async def test_what_may_pass_is_asked_each_time(autojump_clock: MockClock) -> None:
    guard = CommitGuard()
    seconds = 10.0
    with guard.scope:
        guard.allow(lambda: seconds, lambda: OVER)
        seconds = 3.0
        await trio.sleep(5)
        guard.progress()
        await trio.sleep_forever()
    assert trio.current_time() == 8


async def test_nothing_expires_while_somebody_else_keeps_the_time(autojump_clock: MockClock) -> None:
    guard = CommitGuard()
    with guard.scope as scope:
        guard.allow(lambda: 10, lambda: OVER)
        guard.allow_any_time()
        await trio.sleep(1000)
    assert not scope.cancelled_caught


async def test_no_limit_runs_past_the_commit_point(autojump_clock: MockClock) -> None:
    guard = CommitGuard()
    with guard.scope as scope:
        guard.allow(lambda: 10, lambda: OVER)
        await guard.commit()
        guard.progress()
        await trio.sleep(1000)
    assert not scope.cancelled_caught
    assert guard.scope.deadline == math.inf


async def test_a_limit_that_ran_out_in_the_same_instant_gives_way_to_the_commit(mock_clock: MockClock) -> None:
    guard = CommitGuard()
    with guard.scope:
        guard.allow(lambda: 10, lambda: OVER)
        mock_clock.jump(11)
        await guard.commit()
        await trio.lowlevel.checkpoint()
    assert guard.committed


@pytest.mark.parametrize("committed", [False, True])
async def test_cancellation_from_outside_stops_at_the_commit_point(committed: bool, autojump_clock: MockClock) -> None:
    guard = CommitGuard()
    finished = False
    with trio.move_on_after(5), guard.scope:
        if committed:
            await guard.commit()
        await trio.sleep(100)
        finished = True
    assert finished is committed


async def test_small_steps_of_progress_move_the_deadline_seldom_but_far_enough(autojump_clock: MockClock) -> None:
    guard = CommitGuard()
    guard.allow(lambda: 100.0, lambda: OVER)
    with guard.scope as scope:
        for _ in range(1000):
            await trio.sleep(0.5)
            guard.progress()
            assert 99.0 <= scope.deadline - trio.current_time() <= 100.0
        await guard.commit()
        guard.progress()
        guard.allow(lambda: 1.0, lambda: LATER)
        assert scope.deadline == math.inf
