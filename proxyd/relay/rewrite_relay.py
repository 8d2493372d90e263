"""The main channel between two connected legs: the stream through the rewriter, the return path as it is.

Theory of operation
===================

Two tasks, one per direction. Each receives once, sends all of it, and only then receives again.

*Before the commit point* anything unexpected in either task abandons the migration (:mod:`.commit_guard`); the session
then resets **both** legs. Resetting the return path alone would not do: QEMU's source looks at errors of its sending
side only while it iterates over RAM (``migration/migration.c: migration_detect_error``). A SHUT(0) that comes so soon
is not passed on: the source would believe it, and wait for no other.

*After it* the relay is a wire (:mod:`.wire`), and the rewriter is out of the way: no code that judges bytes runs then.
If it can be, the migration is given to the service manager right before (:mod:`.keeping`), so that it does not end
with this process.

Rules for editors: every await in this file may be the one at which the session is abandoned; between
``guard.commit()`` and the first send there is no other statement that waits.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from formats.channel import CLASSIFY_BYTES
from formats.errors import FormatError, TruncatedStream
from proxyd.relay.channel import GONE, Leg
from proxyd.relay.commit_guard import CommitGuard
from proxyd.relay.deposit import Deposit, MemoryDeposit
from proxyd.relay.intake import Buffer, Intake, ending_of
from proxyd.relay.keeping import Keeper, carried
from proxyd.relay.migration import Migration
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.pump import Pipe, plain_pipes
from proxyd.relay.record import SessionRecord
from proxyd.relay.rehearser import RehearsalUnavailable, Rehearser
from proxyd.relay.wire import Wire
from proxyd.rewrite.rewriter import Phase, RewriteRefused


class RewriteRelay:
    """Carries one migration from a connected source to a connected destination.

    :param migration: told when the destination has the first bytes, from which on it takes other channels, and when
        the source switches to postcopy.
    :param keeper: keeps the migration for another process from the commit point on.
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
        migration: Migration,
        rehearser: Rehearser | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._source = source
        self._destination = destination
        self._intake = intake
        self._guard = guard
        self._record = record
        self._migration = migration
        self._rehearser = rehearser
        self._keeper = keeper
        self._wire: Wire
        self._pipes: tuple[Pipe, Pipe] | None = None

    async def run(self, first: Sequence[Buffer]) -> Ending:
        """Relay until both directions have ended, beginning with what the prologue released.

        Resource handling: closes neither leg gracefully; it may reset the source. The caller owns both.

        Error handling: does not return if the migration is abandoned; the guard's scope is cancelled then.
        """
        with plain_pipes(self._source, self._destination) as pipes:
            self._pipes = pipes
            self._wire = Wire(self._source, self._destination, self._intake, self._guard, self._record, pipes)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._forward, first, name="main channel, source to destination")
                nursery.start_soon(self._wire.return_path, name="main channel, return path")
        return self._wire.ending

    async def _forward(self, first: Sequence[Buffer]) -> None:
        await self._begin(first)
        # A destination that is lost before the commit point ends this direction: the return path concludes.
        while not (self._guard.committed or self._wire.destination_broken):
            try:
                chunk = await self._source.receive_chunk()
            except GONE as error:
                if not self._wire.return_ended:
                    self._wire.lose_source(error)
                return
            self._guard.progress()
            if not chunk:
                await self._finish_early()
                break
            try:
                buffers = self._intake.feed(chunk)
            except (FormatError, RewriteRefused) as error:
                self._refuse(error)
                return
            if self._intake.rewriter.switched:
                self._migration.switch()
            await self._deliver(buffers)
            if not await self._rehearsed():
                return
            del chunk, buffers  # a view that is left would cost the next chunk a buffer of its own
        if self._guard.committed:
            await self._wire.forward()

    async def _begin(self, first: Sequence[Buffer]) -> None:
        """What the destination peeks at, first and alone: with that it knows its main channel, and it may read on only
        once it has all the others as well. The prologue can bring more than the destination's socket holds."""
        if self._intake.is_pipe:
            await self._commit(first, CLASSIFY_BYTES)
            return
        head = memoryview(first[0])
        await self._send((head[:CLASSIFY_BYTES],))
        self._migration.open()
        await self._deliver([piece for piece in (head[CLASSIFY_BYTES:], *first[1:]) if piece])
        await self._rehearsed()

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
        if self._intake.is_pipe and not self._guard.committed:
            await self._commit(buffers)
        else:
            await self._send(buffers)

    async def _send(self, buffers: Sequence[Buffer]) -> None:
        if not self._wire.destination_broken:
            try:
                await self._destination.send_buffers(buffers)
            except GONE:
                self._wire.lose_destination()
            else:
                self._wire.delivered(sum(map(len, buffers)))

    async def _commit(self, buffers: Sequence[Buffer], head: int | None = None) -> None:
        """Pass the commit point with ``buffers``; ``head``: how many bytes the destination has to have before it takes
        other channels."""
        self._intake.deposit(sum(map(len, buffers)))
        await self._migration.gather()
        # Before the commit point, because it may have to wait for the service manager, and may be in vain.
        deposit: Deposit = await self._keep(buffers) or MemoryDeposit(buffers)
        try:
            await self._guard.commit()
            # Past the commit point a silent peer is waited for, as QEMU itself would: closing the source's side
            # because a network was down for two minutes could leave the guest running on both hosts.
            self._source.keepalive(on=False)
            self._destination.keepalive(on=False)
            if head is not None:
                await self._wire.send(deposit, head)
                self._migration.open()
            await self._wire.send(deposit)
            if self._pipes is not None and (
                self._intake.rewriter.switched or self._intake.rewriter.phase is Phase.OPAQUE
            ):
                self._pipes[0].widen()  # the guest's memory is still to come
        finally:
            deposit.close()
            self._intake.deposit(0)
        self._record.released(self._intake)

    async def _keep(self, buffers: Sequence[Buffer]) -> Deposit | None:
        """Give the migration to the service manager as well, if there is one and nothing of it is in our memory."""
        main = carried("main channel", "main", self._source, self._destination, self._pipes)
        if self._keeper is None or main is None or not await self._migration.settle():
            return None
        deposit = await self._keeper.keep(main, buffers, self._intake.rewriter)
        if self._keeper.words is not None:
            self._wire.said = self._keeper.words.hear
        return deposit

    def _refuse(self, error: FormatError | RewriteRefused) -> None:
        if isinstance(error, RewriteRefused):
            self._record.refused(error)
        self._guard.abandon(ending_of(error))
