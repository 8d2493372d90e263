"""The main channel between two connected legs: the stream through the rewriter, the return path as it is.

Theory of operation
===================

Two tasks, one per direction. Each receives once, sends all of it, and only then receives again. They share the legs
and nothing else but the few facts below, so that a return path which does not move never stops the stream, nor the
other way round.

*Before the commit point* anything unexpected in either task abandons the migration (:mod:`.commit_guard`); the session
then resets **both** legs. Resetting the return path alone would not do: QEMU's source looks at errors of its sending
side only while it iterates over RAM (``migration/migration.c: migration_detect_error``). A SHUT(0) that comes so soon
is not passed on: the source would believe it, and wait for no other.

*After it* the relay behaves like a wire. FIN becomes FIN and RST becomes RST, with these additions, all of them
because a guest may be running on the destination already:

* a source that dies does not stop the delivery of what it had sent, nor the reading of the destination's verdict;
* a destination that cannot be written to is still read to its end: it may have said SHUT(1) before it died;
* after a SHUT went by, RST becomes FIN. QEMU closes with unread data now and then, which the kernel turns into RST,
  and passing that on could overtake the SHUT in our own send buffer;
* the source's leg is never closed first.

The rewriter is out of the way after RELEASED: no code that judges bytes runs past the commit point.

Rules for editors: every await in this file may be the one at which the session is abandoned; between
``guard.commit()`` and the first send there is no other statement that waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from formats.channel import CLASSIFY_BYTES
from formats.errors import FormatError, TruncatedStream
from formats.return_path import ReturnPathReader
from formats.savevm import ReturnPathMessage
from proxyd.metrics import Direction
from proxyd.relay.channel import GONE, Leg
from proxyd.relay.commit_guard import CommitGuard
from proxyd.relay.intake import Buffer, Intake, ending_of
from proxyd.relay.migration import Migration
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.record import SessionRecord
from proxyd.relay.rehearser import RehearsalUnavailable, Rehearser
from proxyd.rewrite.rewriter import Phase, RewriteRefused

_TOO_EARLY: Final = Ending(
    Outcome.DESTINATION_FAILED,
    "the destination said SHUT(0) before it had the device state: what it runs is not this guest",
)

_PAGE_REQUESTS: Final = frozenset({ReturnPathMessage.REQ_PAGES, ReturnPathMessage.REQ_PAGES_ID})

_POSTCOPY_BROKEN: Final = (
    "the {side} connection broke in postcopy: the guest's memory is on both hosts, and both QEMUs should say "
    "postcopy-paused; go on with migrate_recover at the destination, then migrate -r at the source"
)


class RewriteRelay:
    """Carries one migration from a connected source to a connected destination.

    :param migration: told when the destination has the first bytes, from which on it takes other channels, and when
        the source switches to postcopy.
    :param record: told of the release only after the tail was handed to the kernel: lines of log cost time, and
        until then it is the guest's.
    """

    def __init__(
        self,
        source: Leg,
        destination: Leg,
        intake: Intake,
        guard: CommitGuard,
        record: SessionRecord,
        rehearser: Rehearser | None = None,
        migration: Migration | None = None,
    ) -> None:
        self._source = source
        self._destination = destination
        self._intake = intake
        self._guard = guard
        self._record = record
        self._rehearser = rehearser
        self._migration = migration
        self._reader = ReturnPathReader()
        self._shut: int | None = None
        self._destination_spoke = False
        self._pages_wanted = False  # the guest runs at the destination, and asks for its memory
        self._destination_broken = False  # it cannot be written to
        self._return_ended = False
        self._source_gone = False
        self._ending = Ending(Outcome.INTERNAL_ERROR, "the relay ended without an outcome")

    async def run(self, first: Sequence[Buffer]) -> Ending:
        """Relay until both directions have ended, beginning with what the prologue released.

        Resource handling: closes neither leg gracefully; it may reset the source. The caller owns both.

        Error handling: does not return if the migration is abandoned; the guard's scope is cancelled then.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._forward, first, name="main channel, source to destination")
            nursery.start_soon(self._return_path, name="main channel, return path")
        return self._ending

    # Source to destination.

    async def _forward(self, first: Sequence[Buffer]) -> None:
        # What it peeks at, first and alone: with that it knows its main channel, and it may read on only once it has
        # all the others as well. The prologue can bring more than the destination's socket holds.
        head = memoryview(first[0])
        await self._deliver((head[:CLASSIFY_BYTES],))
        if self._migration is not None:
            self._migration.open()
        await self._deliver([piece for piece in (head[CLASSIFY_BYTES:], *first[1:]) if piece])
        if not await self._rehearsed():
            return
        # A destination that is lost before the commit point ends this direction: the return path concludes.
        while self._guard.committed or not self._destination_broken:
            try:
                chunk = await self._source.receive_chunk()
            except GONE as error:
                if self._return_ended:
                    return
                self._lose_source(error)
                break
            self._guard.progress()
            if not chunk:
                if not self._guard.committed:
                    await self._finish_early()
                break
            if self._guard.committed:
                await self._deliver((chunk,))
                continue
            try:
                buffers = self._intake.feed(chunk)
            except (FormatError, RewriteRefused) as error:
                self._refuse(error)
                return
            if self._migration is not None and self._intake.rewriter.switched:
                self._migration.switch()
            await self._deliver(buffers)
            if not await self._rehearsed():
                return
            del chunk, buffers  # a view that is left would cost the next chunk a buffer of its own
        if self._guard.committed:
            await _half_close(self._destination)

    async def _rehearsed(self) -> bool:
        """If a plan waits for it, let the destination's KVM try the registers, and deliver the device state if it
        takes them all.

        The source waits: it has sent everything. Says whether the relay may go on; if not, the migration is abandoned.
        """
        plan = self._intake.rewriter.planned
        if plan is None:
            return True
        if self._rehearser is None:
            raise AssertionError("a route that rehearses has a rehearser")
        self._guard.allow_any_time()  # the rehearser has its own limit
        began = trio.current_time()
        try:
            rehearsal = await self._rehearser.perform(plan)
            self._record.rehearsed(rehearsal, trio.current_time() - began)
            buffers = self._intake.release(rehearsal)
        except RehearsalUnavailable as error:
            self._record.not_rehearsed()
            self._guard.abandon(Ending(Outcome.NOT_REHEARSED, str(error)))
            return False
        except RewriteRefused as error:
            self._refuse(error)
            return False
        await self._deliver(buffers)
        return True

    async def _finish_early(self) -> None:
        """FIN from the source before the commit point: the rewriter knows whether the stream was whole."""
        try:
            buffers = self._intake.finish()
        except TruncatedStream as error:
            self._guard.abandon(Ending(Outcome.SOURCE_GONE, f"the source closed the connection: {error}"))
        except (FormatError, RewriteRefused) as error:
            self._refuse(error)
        else:
            await self._deliver(buffers)

    async def _deliver(self, buffers: Sequence[Buffer]) -> None:
        """Send ``buffers``; if they hold the released device state, this is where the commit point is passed."""
        commits = self._intake.is_pipe and not self._guard.committed
        if commits:
            if self._migration is not None:
                await self._migration.gather()
            await self._guard.commit()
            # Past the commit point a silent peer is waited for, as QEMU itself would: closing the source's side
            # because a network was down for two minutes could leave the guest running on both hosts.
            self._source.keepalive(on=False)
            self._destination.keepalive(on=False)
        # What comes after the destination broke is read and dropped: the source's side is not the one that ends first.
        if not self._destination_broken:
            try:
                await self._destination.send_buffers(buffers)
            except GONE:
                self._lose_destination()
            else:
                self._record.relayed(Direction.TO_DESTINATION, sum(map(len, buffers)))
                self._guard.progress()
        if commits:
            self._record.released(self._intake)

    def _lose_destination(self) -> None:
        """The destination takes no more bytes. What it had to say may still be on its way to us."""
        self._destination_broken = True
        if self._return_ended and self._shut is None:
            # It half-closed first, which went to the source as FIN. Without RST the source would send on.
            self._ending = Ending(Outcome.DESTINATION_FAILED, "the destination's connection broke")
            self._source.abort()

    # Destination to source.

    async def _return_path(self) -> None:
        broke = False
        while True:
            try:
                chunk = await self._destination.receive_some()
            except GONE:
                broke = True
                break
            if not chunk:
                break
            self._guard.progress()
            self._observe(chunk)
            if self._shut == 0 and self._guard.abandon(_TOO_EARLY):
                return
            if not self._source_gone:
                try:
                    await self._source.send_buffers((chunk,))
                except GONE as error:
                    self._lose_source(error)
                else:
                    self._record.relayed(Direction.TO_SOURCE, len(chunk))
        await self._conclude(broke=broke or self._destination_broken)

    def _observe(self, chunk: bytes) -> None:
        """Look at what is passed on. What cannot be read is not ours to judge: the source will."""
        self._destination_spoke = True
        try:
            events = self._reader.feed(chunk)
        except FormatError as error:
            self._record.journal.warning(f"{error}; passed on as it is, no longer read")
            return
        for event in events:
            self._record.journal.debug("return path", message_kind=event.message.name, value=event.value)
            if event.message is ReturnPathMessage.SHUT:
                self._shut = event.value
            elif event.message in _PAGE_REQUESTS:
                self._pages_wanted = True

    async def _conclude(self, *, broke: bool) -> None:
        """The destination has said all that it will say."""
        self._return_ended = True
        self._ending = self._verdict(broke=broke)
        if not self._guard.committed:
            self._guard.abandon(self._ending)
            return
        if broke and self._shut is None:
            self._source.abort()
            return
        await _half_close(self._source)
        # Nothing depends on the source any more; only a host that lost its power would keep this session for ever.
        self._source.keepalive(on=True)

    def _verdict(self, *, broke: bool) -> Ending:
        how = "its connection broke" if broke else "it closed the connection"
        if self._shut:
            reason = f"the destination said SHUT({self._shut}): it failed to load, and the source resumes its guest"
            return Ending(Outcome.DESTINATION_FAILED, reason)
        if not self._guard.committed:
            reason = f"the destination was lost before the commit point: {how}"
            return Ending(Outcome.DESTINATION_GONE, reason)
        if self._shut == 0:
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

    # Both.

    def _lose_source(self, error: Exception) -> None:
        if self._source_gone:
            return
        self._source_gone = True
        reason = f"the source's connection broke in phase {self._intake.rewriter.phase}: {error.__cause__ or error}"
        if not self._guard.abandon(Ending(Outcome.SOURCE_GONE, reason)):
            self._record.journal.warning(f"{reason}; what it had sent is delivered all the same")

    def _refuse(self, error: FormatError | RewriteRefused) -> None:
        if isinstance(error, RewriteRefused):
            self._record.refused(error)
        self._guard.abandon(ending_of(error))


async def _half_close(leg: Leg) -> None:
    with suppress(*GONE):
        await leg.send_eof()
