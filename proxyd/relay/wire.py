"""The two legs of a main channel as a wire: the return path at all times, the stream past the commit point.

Two tasks, one per direction, that share the legs and the few facts below, so that a return path which does not move
never stops the stream, nor the other way round.

*Before the commit point* anything unexpected on the return path abandons the migration (:mod:`.commit_guard`); the
session then resets **both** legs. A SHUT(0) that comes so soon is not passed on: the source would believe it, and wait
for no other.

*After it* FIN becomes FIN and RST becomes RST, with these additions, all of them because a guest may be running on the
destination already:

* a source that dies does not stop the delivery of what it had sent, nor the reading of the destination's verdict;
* a destination that cannot be written to is still read to its end: it may have said SHUT(1) before it died;
* after a SHUT went by, RST becomes FIN. QEMU closes with unread data now and then, which the kernel turns into RST,
  and passing that on could overtake the SHUT in our own send buffer;
* the source's leg is never closed first.

Nothing here judges a byte. Between two plain sockets no byte is ever only in this process's memory, on either way: that
is what lets another process go on with them (:mod:`.adoption`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from formats.errors import FormatError
from formats.return_path import ReturnPathReader
from formats.savevm import ReturnPathMessage
from proxyd.metrics import Direction
from proxyd.relay.channel import GONE, Leg
from proxyd.relay.commit_guard import CommitGuard
from proxyd.relay.deposit import Deposit
from proxyd.relay.intake import Intake
from proxyd.relay.keeping import LastWords
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.pump import Pipe, TakerGone, drain, pump
from proxyd.relay.record import SessionRecord
from proxyd.rewrite.rewriter import Phase

_TOO_EARLY: Final = Ending(
    Outcome.DESTINATION_FAILED,
    "the destination said SHUT(0) before it had the device state: what it runs is not this guest",
)

_PAGE_REQUESTS: Final = frozenset({ReturnPathMessage.REQ_PAGES, ReturnPathMessage.REQ_PAGES_ID})

_POSTCOPY_BROKEN: Final = (
    "the {side} connection broke in postcopy: the guest's memory is on both hosts, and both QEMUs should say "
    "postcopy-paused; go on with migrate_recover at the destination, then migrate -r at the source"
)


class Wire:
    """A main channel between two connected legs.

    :param pipes: what the bytes on their way are in, forth and back; only for plain sockets. The caller owns them.
    :param heard: the end of what the return path has said to another process.

    ``said`` hears all that comes on the return path, before it is passed on.
    """

    def __init__(
        self,
        source: Leg,
        destination: Leg,
        intake: Intake,
        guard: CommitGuard,
        record: SessionRecord,
        pipes: tuple[Pipe, Pipe] | None = None,
        heard: LastWords | None = None,
    ) -> None:
        self.ending = Ending(Outcome.INTERNAL_ERROR, "the relay ended without an outcome")
        self.destination_broken = False  # it cannot be written to
        self.return_ended = False
        self.shut = None if heard is None else heard.shut
        self.said: Callable[[bytes], None] = _to_nobody
        self._source = source
        self._destination = destination
        self._intake = intake
        self._guard = guard
        self._record = record
        self._pipes: tuple[Pipe | None, Pipe | None] = pipes or (None, None)
        self._reader = heard or ReturnPathReader()
        self._destination_spoke = False
        # The guest runs at the destination, and asks for its memory; another process may have heard it do so.
        self._pages_wanted = heard is not None and intake.rewriter.switched
        self._source_gone = False

    # Source to destination.

    async def send(self, deposit: Deposit, most: int | None = None) -> None:
        """Deliver released device state, all of it or its next ``most`` bytes."""
        if self.destination_broken:
            return
        try:
            sent = await deposit.send(self._destination, most)
        except GONE:
            self.lose_destination()
        else:
            self.delivered(sent)

    def delivered(self, size: int) -> None:
        """The destination's kernel side has taken bytes."""
        self._record.relayed(Direction.TO_DESTINATION, size)
        self._guard.progress()

    async def forward(self) -> None:
        """Past the commit point: carry whatever else the source sends, to its end.

        What comes after the destination broke is read and dropped: the source's side is not the one that ends first.
        """
        try:
            if not self.destination_broken:
                try:
                    await pump(self._source, self._destination, self.delivered, self._pipes[0])
                except TakerGone:
                    self.lose_destination()
            if self.destination_broken:
                await drain(self._source)
        except GONE as error:
            if self.return_ended:
                return
            self.lose_source(error)
        await _half_close(self._destination)

    def lose_destination(self) -> None:
        """The destination takes no more bytes. What it had to say may still be on its way to us."""
        self.destination_broken = True
        if self.return_ended and self.shut is None:
            # It half-closed first, which went to the source as FIN. Without RST the source would send on.
            self.ending = Ending(Outcome.DESTINATION_FAILED, "the destination's connection broke")
            self._source.abort()

    def lose_source(self, error: BaseException) -> None:
        """The source's connection is broken."""
        if self._source_gone:
            return
        self._source_gone = True
        reason = f"the source's connection broke in phase {self._intake.rewriter.phase}: {error.__cause__ or error}"
        if not self._guard.abandon(Ending(Outcome.SOURCE_GONE, reason)):
            self._record.journal.warning(f"{reason}; what it had sent is delivered all the same")

    # Destination to source.

    async def return_path(self) -> None:
        """Carry the return path to its end, and say what it meant."""
        broke = False
        try:
            try:
                await pump(self._destination, self._source, self._returned, self._pipes[1], self._observe)
            except TakerGone as error:
                self.lose_source(error.__cause__ or error)
                await drain(self._destination, self._observe)
        except GONE:
            broke = True
        await self._conclude(broke=broke or self.destination_broken)

    def _returned(self, size: int) -> None:
        self._record.relayed(Direction.TO_SOURCE, size)

    def _observe(self, chunk: bytes) -> None:
        """Look at what is passed on. What cannot be read is not ours to judge: the source will."""
        if not chunk:
            return
        self._guard.progress()
        self._destination_spoke = True
        self.said(chunk)
        try:
            events = self._reader.feed(chunk)
        except FormatError as error:
            self._record.journal.warning(f"{error}; passed on as it is, no longer read")
            return
        for event in events:
            self._record.journal.debug("return path", message_kind=event.message.name, value=event.value)
            if event.message is ReturnPathMessage.SHUT:
                self.shut = event.value
            elif event.message in _PAGE_REQUESTS:
                self._pages_wanted = True
        if self.shut == 0:
            # Does nothing past the commit point. Before it, what is looked at is not passed on any more.
            self._guard.abandon(_TOO_EARLY)

    async def _conclude(self, *, broke: bool) -> None:
        """The destination has said all that it will say."""
        self.return_ended = True
        self.ending = self._verdict(broke=broke)
        if not self._guard.committed:
            self._guard.abandon(self.ending)
            return
        if broke and self.shut is None:
            self._source.abort()
            return
        await _half_close(self._source)
        # Nothing depends on the source any more; only a host that lost its power would keep this session for ever.
        self._source.keepalive(on=True)

    def _verdict(self, *, broke: bool) -> Ending:
        how = "its connection broke" if broke else "it closed the connection"
        if self.shut:
            reason = f"the destination said SHUT({self.shut}): it failed to load, and the source resumes its guest"
            return Ending(Outcome.DESTINATION_FAILED, reason)
        if not self._guard.committed:
            reason = f"the destination was lost before the commit point: {how}"
            return Ending(Outcome.DESTINATION_GONE, reason)
        if self.shut == 0:
            return Ending(Outcome.COMPLETED, "the destination said SHUT(0): the guest runs there")
        if self._intake.rewriter.switched and (self._source_gone or self._pages_wanted):
            side = "source's" if self._source_gone else "destination's"
            return Ending(Outcome.POSTCOPY_BROKEN, _POSTCOPY_BROKEN.format(side=side))
        if self._source_gone and self._intake.rewriter.phase is Phase.OPAQUE:
            return Ending(Outcome.SOURCE_GONE, "the source's connection broke; what it had sent was delivered")
        if broke or self._destination_spoke or self._intake.rewriter.return_path:
            reason = f"the destination ended without a SHUT: {how}"
            return Ending(Outcome.DESTINATION_FAILED, reason)
        return Ending(Outcome.DELIVERED, "everything was delivered; there is no return path to say whether it loads")


async def _half_close(leg: Leg) -> None:
    with suppress(*GONE):
        await leg.send_eof()


def _to_nobody(_chunk: bytes) -> None:
    """Nobody keeps what is said."""
