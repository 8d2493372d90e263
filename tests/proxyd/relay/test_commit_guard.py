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


async def test_a_limit_expires(autojump_clock: MockClock) -> None:
    guard = CommitGuard()
    with guard.scope as scope:
        guard.allow(10, lambda: "10 s are over")
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 10
    assert guard.ending == Ending(Outcome.LIMIT, "10 s are over")


async def test_progress_begins_the_limit_anew(autojump_clock: MockClock) -> None:
    guard = CommitGuard()
    with guard.scope:
        guard.allow(10, lambda: "over")
        await trio.sleep(9)
        guard.progress()
        await trio.sleep_forever()
    assert trio.current_time() == 19


async def test_the_later_limit_replaces_the_earlier(autojump_clock: MockClock) -> None:
    guard = CommitGuard()
    with guard.scope:
        guard.allow(10, lambda: "first")
        guard.allow(20, lambda: "second")
        await trio.sleep_forever()
    assert trio.current_time() == 20
    assert guard.ending.reason == "second"


async def test_no_limit_runs_past_the_commit_point(autojump_clock: MockClock) -> None:
    guard = CommitGuard()
    with guard.scope as scope:
        guard.allow(10, lambda: "over")
        await guard.commit()
        guard.progress()
        await trio.sleep(1000)
    assert not scope.cancelled_caught
    assert guard.scope.deadline == math.inf


async def test_a_limit_that_ran_out_in_the_same_instant_gives_way_to_the_commit(mock_clock: MockClock) -> None:
    guard = CommitGuard()
    with guard.scope:
        guard.allow(10, lambda: "over")
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
    guard.allow(100.0, lambda: "idle")
    with guard.scope as scope:
        for _ in range(1000):
            await trio.sleep(0.5)
            guard.progress()
            assert 99.0 <= scope.deadline - trio.current_time() <= 100.0
        await guard.commit()
        guard.progress()
        guard.allow(1.0, lambda: "late")
        assert scope.deadline == math.inf
