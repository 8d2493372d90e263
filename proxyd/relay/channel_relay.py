"""A channel beside the main one, between two connected legs: multifd, postcopy preempt, or a postcopy that recovers.

Its bytes are opaque, but for the headers of multifd packets where the route has a firewall (:mod:`.inspection`). Two
pumps, one per direction, that wait for nothing but their own legs: a MULTIFD_FLUSH on the
main channel makes the destination wait for every other channel (``migration/multifd.c: multifd_recv_sync_main``), so a
channel that waited for another would stop the migration for good.

*Before the commit point* a channel that ends, on either side and in whatever way, ends its migration: a source closes
its channels only when it is done or has failed. *After it* the channel behaves like a wire: FIN becomes FIN, RST
becomes RST.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio

from proxyd.metrics import Direction
from proxyd.relay.channel import GONE, Leg
from proxyd.relay.inspection import Inspection
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.pump import Pipe, TakerGone, pump
from proxyd.rewrite.refusal import RewriteRefused


class ChannelRelay:
    """Carries one channel.

    :param name: what to call it in messages.
    :param moved: hears of every piece that was delivered: which way, how many bytes.
    :param lost: hears how the channel has ended, before anything is passed on. Before the commit point it abandons the
        migration, and with it this channel.
    :param inspection: judges what the source sends; where it refuses, the channel ends like one that broke.
    :param pipes: what the bytes on their way are in, forth and back; only for plain sockets. The caller owns them.
    """

    def __init__(
        self,
        source: Leg,
        destination: Leg,
        name: str,
        moved: Callable[[Direction, int], None],
        lost: Callable[[Ending], None],
        pipes: tuple[Pipe, Pipe] | None = None,
        inspection: Inspection | None = None,
    ) -> None:
        self.was_reset = False
        self._source = source
        self._destination = destination
        self._name = name
        self._moved = moved
        self._lost = lost
        self._inspection = inspection
        self._pipes: tuple[Pipe | None, Pipe | None] = pipes or (None, None)

    async def run(self) -> None:
        """Relay until both directions have ended.

        Resource handling: the caller owns both legs; those that broke are reset.

        Error handling: cancelled with its migration.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, Direction.TO_DESTINATION, name=f"{self._name}, source to destination")
            nursery.start_soon(self._carry, Direction.TO_SOURCE, name=f"{self._name}, destination to source")

    async def _carry(self, direction: Direction) -> None:
        forth = direction is Direction.TO_DESTINATION
        giver, taker = (self._source, self._destination) if forth else (self._destination, self._source)
        pipe = self._pipes[0 if forth else 1]
        try:
            inspection = self._inspection if forth else None
            await pump(giver, taker, lambda size: self._moved(direction, size), pipe, inspection=inspection)
        except RewriteRefused as refusal:
            self._lost(Ending(Outcome.REFUSED, f"{self._name}: {refusal}"))
            await self._reset()
        except (*GONE, TakerGone) as raised:
            error = raised.__cause__ if isinstance(raised, TakerGone) and raised.__cause__ else raised
            self._tell(forth=forth, how=f"its connection broke: {error.__cause__ or error}")
            await self._reset()
        else:
            self._tell(forth=forth, how="it was closed")
            with suppress(*GONE):
                await taker.send_eof(clean=giver.ended_cleanly)

    async def _reset(self) -> None:
        """Which of the two it was does not matter: whoever is left must see an error, not an end."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.was_reset = True
        self._source.abort()
        self._destination.abort()

    def _tell(self, *, forth: bool, how: str) -> None:
        if self.was_reset:
            return  # the other direction has told why, and this one ends because of that
        outcome = Outcome.SOURCE_GONE if forth else Outcome.DESTINATION_GONE
        side = "source" if forth else "destination"
        self._lost(Ending(outcome, f"{self._name} ended on the side of the {side}: {how}"))
