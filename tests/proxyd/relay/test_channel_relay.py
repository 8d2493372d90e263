"""A channel beside the main one: two directions that wait for nothing but themselves. In memory, on a mock clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proxyd.metrics import Direction
from proxyd.relay.channel_relay import ChannelRelay
from proxyd.relay.outcome import Ending, Outcome
from tests.proxyd.relay.legs import MemoryLeg, leg_pair
from tests.proxyd.relay.stage import end_seen, reset_seen


class Play:
    """A relay between two ends that the test plays."""

    def __init__(self, capacity: int | None) -> None:
        self.source, self._from = leg_pair("source:1", "proxyd", capacity)
        self._to, self.destination = leg_pair("proxyd", "destination:2", capacity)
        self.moved: list[tuple[Direction, int]] = []
        self.lost: list[Ending] = []
        self.relay = ChannelRelay(
            self._from, self._to, "multifd channel 3", lambda *piece: self.moved.append(piece), self.lost.append
        )
        self.ended = trio.Event()

    async def run(self) -> None:
        await self.relay.run()
        self.ended.set()


@asynccontextmanager
async def played(capacity: int | None = None) -> AsyncIterator[Play]:
    play = Play(capacity)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play.run)
        yield play
        with trio.move_on_after(60):
            await play.ended.wait()
        assert play.ended.is_set()


async def test_both_directions_and_their_ends(autojump_clock: MockClock) -> None:
    async with played() as play:
        await play.source.say(b"forth")
        await play.destination.say(b"back")
        assert await play.destination.receive_exactly(5) == b"forth"
        assert await play.source.receive_exactly(4) == b"back"
        await play.source.send_eof()
        assert await end_seen(play.destination) == b""
        await play.destination.say(b" and more")
        assert await play.source.receive_exactly(9) == b" and more"
        await play.destination.send_eof()
        assert await end_seen(play.source) == b""
    # The directions wait for nothing of each other's, so either may be first.
    assert sorted(play.moved) == [(Direction.TO_DESTINATION, 5), (Direction.TO_SOURCE, 4), (Direction.TO_SOURCE, 9)]
    assert [ending.outcome for ending in play.lost] == [Outcome.SOURCE_GONE, Outcome.DESTINATION_GONE]
    assert play.lost[0].reason == "multifd channel 3 ended on the side of the source: it was closed"


async def test_a_direction_that_is_stuck_does_not_stop_the_other(autojump_clock: MockClock) -> None:
    async with played(capacity=8) as play:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(play.source.say, b"x" * 1000)
            await wait_all_tasks_blocked()
            await play.destination.say(b"a page!")
            assert await play.source.receive_exactly(7) == b"a page!"
            nursery.cancel_scope.cancel()
        play.source.abort()
        await reset_seen(play.destination)


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_reset_on_one_side_is_a_reset_on_the_other(side: str, autojump_clock: MockClock) -> None:
    async with played() as play:
        here, there = (play.source, play.destination) if side == "source" else (play.destination, play.source)
        here.abort()
        assert await reset_seen(there) == b""
    assert play.lost[0].reason.startswith(f"multifd channel 3 ended on the side of the {side}: its connection broke")


async def test_an_end_that_cannot_be_passed_on_is_no_error(autojump_clock: MockClock) -> None:
    async with played() as play:
        await play.destination.send_eof()
        await wait_all_tasks_blocked()
        gone: MemoryLeg = play.source
        gone.close()
        await end_seen(play.destination)
