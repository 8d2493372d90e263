"""A connection in memory with a fault on it: after so many bytes of one direction, something happens.

It lies between two ends as a network does. The bytes before the fault have arrived, and everybody has done with them
what there was to do, before it strikes; the bytes behind it never arrive, unless it is a stall that goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio
from trio.testing import wait_all_tasks_blocked

from proxyd.relay.channel import GONE
from tests.proxyd.relay.legs import MemoryLeg, leg_pair


@dataclass(frozen=True, slots=True)
class Strike:
    """When: behind ``count`` bytes on the way ``forward`` (towards the destination) or back."""

    count: int
    forward: bool


class Wire:
    """``near`` is for the end towards the source, ``far`` for the one towards the destination."""

    def __init__(self, strike: Strike | None = None) -> None:
        self.near, self._near = leg_pair("source:1", "wire")
        self.far, self._far = leg_pair("destination:2", "wire")
        self.near.peer, self.far.peer = "destination:2", "source:1"
        self.struck = False
        self.on_strike: Callable[[], None] = self.reset
        self._strike = strike
        self._clear = trio.Event()
        self._clear.set()

    async def run(self) -> None:
        """Carry both directions to their ends."""
        forward = self._strike.count if self._strike is not None and self._strike.forward else None
        back = self._strike.count if self._strike is not None and not self._strike.forward else None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, self._near, self._far, forward)
            nursery.start_soon(self._pump, self._far, self._near, back)
        self.hang_up()

    async def _pump(self, giver: MemoryLeg, taker: MemoryLeg, strike_after: int | None) -> None:
        passed = 0
        try:
            while True:
                if passed == strike_after:
                    await wait_all_tasks_blocked()
                    self.struck = True
                    self.on_strike()
                    strike_after = None
                chunk = await giver.receive_some(None if strike_after is None else strike_after - passed)
                await self._clear.wait()
                if not chunk:
                    await taker.send_eof()
                    return
                await taker.send_buffers((chunk,))
                passed += len(chunk)
        except GONE:
            await self._clear.wait()
            self.reset()

    def stall(self) -> None:
        """Nothing passes any more, in either direction."""
        self._clear = trio.Event()

    def go_on(self) -> None:
        """End a stall."""
        self._clear.set()

    def reset(self) -> None:
        """Both ends see RST."""
        self._near.abort()
        self._far.abort()
        self._clear.set()

    def hang_up(self) -> None:
        """Both ends see FIN."""
        self._near.close()
        self._far.close()
        self._clear.set()
