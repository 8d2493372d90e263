"""One connection from a source, from its first byte to its outcome.

    accepted -> first bytes: what kind of channel? -> prologue: is the stream acceptable? -> dial -> relay -> outcome

The destination is dialled only when the rewriter first lets bytes go, because a connection that comes and goes without
data makes a waiting QEMU exit, and one that stays idle blocks its monitor (``migration/migration.c:
migration_ioc_process_incoming`` peeks in the main loop). A port probe therefore never reaches it. The other channels of
a migration are dialled behind its main one (:mod:`.migration`).

Every refusal is RST, not FIN: after a FIN the source would go on sending.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import trio

from formats.channel import MULTIFD_INIT_BYTES, ChannelKind, MultifdInit
from formats.errors import FormatError
from proxyd.endpoint import Dialled
from proxyd.journal import Journal
from proxyd.metrics import Direction, Metrics
from proxyd.relay.channel import GONE, DestinationUnreachable, Leg, dial
from proxyd.relay.channel_relay import ChannelRelay
from proxyd.relay.commit_guard import CommitGuard
from proxyd.relay.committed_stream import a_recovery
from proxyd.relay.destination import fixed_destination
from proxyd.relay.dialling import Dialler, Securer, dial_destination, watched
from proxyd.relay.greeting import Greeting
from proxyd.relay.intake import Buffer, Intake, RewriterFactory, ending_of, rewriter_for
from proxyd.relay.keeping import DescriptorStore, Keeper, carried
from proxyd.relay.migration import Key, Migration, Migrations, TooManyChannels
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.pump import plain_pipes
from proxyd.relay.record import SessionRecord
from proxyd.relay.rehearser import RehearsalUnavailable, Rehearser, RehearserFactory, ServiceRehearser
from proxyd.relay.rewrite_relay import RewriteRelay
from proxyd.relay.tls_leg import connect_tls
from proxyd.rewrite.freshness import StaleDescription
from proxyd.rewrite.rewriter import Phase, RewriteRefused
from proxyd.routes import RehearsalService, Route


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all sessions of a daemon share. Tests put a scripted rewriter and legs in memory here."""

    metrics: Metrics
    journal: Journal
    make_rewriter: RewriterFactory = rewriter_for
    dialler: Dialler = dial
    make_rehearser: RehearserFactory = ServiceRehearser
    secure: Securer = connect_tls
    migrations: Migrations = field(default_factory=Migrations)
    store: DescriptorStore | None = None


class MigrationSession:
    """One connection. :meth:`run` it once; :meth:`abandon` it from anywhere.

    :param towards: where it leads, for a route whose connections do not all lead to the same place.
    :param accepted: its place in the order of accept, for a connection that had to shake hands first.
    """

    def __init__(
        self,
        source: Leg,
        route: Route,
        around: Surroundings,
        towards: Dialled | None = None,
        accepted: int | None = None,
    ) -> None:
        self.route = route
        self.record = SessionRecord(
            route.name, source.peer, around.metrics, around.journal, route.host_file, label=route.metrics_label
        )
        self._source = source
        self._destination: Leg | None = None
        self._around = around
        self._greeting = Greeting(source, self._is_expected)
        self._towards = towards or fixed_destination(route)
        self._key = Key(route.name, str(self._towards), source.origin)
        self._accepted = around.migrations.next_place() if accepted is None else accepted
        self._arrived = trio.current_time()
        self._migration: Migration | None = None
        self._intake: Intake | None = None  # of the main channel only
        self._guard = CommitGuard()
        self._began = trio.current_time()
        self._make_rehearser = around.make_rehearser
        self._rehearser: Rehearser | None = None

    @property
    def committed(self) -> bool:
        """Whether the guest may be running on the destination already."""
        return self._guard.committed

    @property
    def is_main(self) -> bool:
        """Whether this connection is a migration, as opposed to one of its channels or something else."""
        return self._migration is not None

    def facts(self) -> dict[str, Any]:
        """What there is to say of it at this moment, for ``proxyd status``; times in seconds."""
        rewriter = None if self._intake is None else self._intake.rewriter
        return {
            "id": self.record.migration,
            "route": self.route.name,
            "source": self._source.peer,
            "destination": str(self._towards),
            "phase": None if rewriter is None else rewriter.phase.value,
            "machine": None if rewriter is None else rewriter.machine,
            "committed": self.committed,
            "channels": 0 if self._migration is None else self._migration.channels,
            "held_bytes": 0 if rewriter is None else rewriter.held_bytes,
            "bytes_to_destination": self.record.relayed_bytes(Direction.TO_DESTINATION),
            "bytes_to_source": self.record.relayed_bytes(Direction.TO_SOURCE),
            "seconds": round(trio.current_time() - self._began, 3),
        }

    def abandon(self, ending: Ending) -> bool:
        """End the session with both sides reset, unless it is committed. Says whether it could."""
        return self._guard.abandon(ending)

    async def run(self) -> Ending:
        """Carry the connection to its end.

        Resource handling: closes both legs, gracefully only if the relay ran to its end.

        Error handling: raises nothing but :class:`trio.Cancelled`, and that not past the commit point. What is
        unexpected is a bug of ours: it is logged, both legs are reset, and other sessions do not notice.
        """
        ending: Ending | None = None
        ran_to_its_end = False
        try:
            with self._guard.scope as scope:
                self._guard.allow(lambda: self.route.times.header_s, self._header_expired)
                ending = await self._carry()
                ran_to_its_end = self._destination is not None and self._guard.committed
            if scope.cancelled_caught or self._guard.abandoned:
                ending = self._guard.ending
        except Exception as error:  # noqa: BLE001 - the one place where a session's bug stops
            ending = Ending(Outcome.INTERNAL_ERROR, f"a bug of proxyd's: {error!r}")
            self.record.failed(error)
        finally:
            for leg in (self._source, self._destination):
                if leg is not None:
                    leg.close() if ran_to_its_end else leg.abort()
            if self._rehearser is not None:
                self._rehearser.close()
            if self._intake is not None:
                self._intake.close()
            if self._migration is not None:
                if self._migration.keeper is not None:
                    # Behind the legs: what is kept of them ends now, and with it the connections themselves.
                    self._migration.keeper.end()
                self._around.migrations.end(self._migration)
            ending = ending or Ending(Outcome.DRAINED, "the daemon was stopped")
            self.record.ended(ending, trio.current_time() - self._began, silent=not self._greeting.first)
        return ending

    async def _carry(self) -> Ending:
        with self._around.migrations.listening(self._key, self._accepted, self._arrived, self._greeting):
            ending = await self._greeting.read()
        if ending is not None:
            return ending
        match self._greeting.kind:
            case ChannelKind.MAIN:
                return await self._carry_main(self._greeting.first)
            case ChannelKind.RECOVERY:
                return await self._carry_recovery(self._greeting.first)
            case kind:
                return await self._carry_channel(kind, self._greeting.first)

    # The main channel.

    async def _carry_main(self, first: bytes) -> Ending:
        around = self._around
        migration = around.migrations.begin(self._key, self.record.id, self._guard, self._accepted)
        self._migration = migration
        self._keep(migration)
        intake = Intake(around.make_rewriter(self.route), self.route.metrics_label, around.metrics)
        self._intake = intake
        buffers = await self._prologue(intake, first)
        if isinstance(buffers, Ending):
            return buffers
        if intake.rewriter.postcopy_advised:
            migration.preempt.advise(intake.rewriter.machine, visible=not intake.is_pipe)
        if self.route.rehearsal is not None and not intake.is_pipe:
            ending = await self._open_rehearser(self.route.rehearsal)
            if ending is not None:
                return ending
        try:
            self._destination = await self._dial(fin=intake.rewriter.return_path)
        except DestinationUnreachable as error:
            return Ending(Outcome.DESTINATION_UNREACHABLE, str(error))
        self.record.begins(self._destination.peer, intake)
        self._guard.allow(lambda: self._idle_allowance(intake), lambda: self._idle_expired(intake))
        return await self._relay_main(intake, migration, buffers)

    async def _carry_recovery(self, first: bytes) -> Ending:
        """The main channel over which a broken postcopy goes on: the guest runs on the destination already."""
        migration = self._around.migrations.begin(self._key, self.record.id, self._guard, self._accepted)
        self._migration = migration
        self._keep(migration)
        migration.preempt.recover()
        intake = Intake(a_recovery(), self.route.metrics_label, self._around.metrics)
        self._intake = intake
        try:
            self._destination = await self._dial()
        except DestinationUnreachable as error:
            return Ending(Outcome.DESTINATION_UNREACHABLE, str(error))
        self.record.recovers(self._destination.peer)
        return await self._relay_main(intake, migration, intake.feed(first))

    async def _relay_main(self, intake: Intake, migration: Migration, first: list[Buffer]) -> Ending:
        assert self._destination is not None, "it was dialled"  # noqa: S101
        relay = RewriteRelay(
            self._source,
            self._destination,
            intake,
            self._guard,
            self.record,
            migration,
            self._rehearser,
            migration.keeper,
        )
        return await relay.run(first)

    def _keep(self, migration: Migration) -> None:
        """From the commit point on, the migration is to outlive this process, if there is somebody who keeps it."""
        store = self._around.store
        if store is not None:
            migration.keeper = Keeper(
                store, migration.id, self.route.name, self.route.metrics_label, self.record.journal
            )

    async def _dial(self, *, fin: bool = True) -> Leg:
        """Connect to the destination, unless the source goes away before. Raises :class:`DestinationUnreachable`."""
        self._guard.allow_any_time()  # the dialler has its limit for each address
        dialling = dial_destination(self._towards, self.route, self._around.dialler, self._around.secure)
        return await watched(self._source, dialling, self._source_left, fin=fin)

    def _source_left(self) -> None:
        reason = f"the source closed the connection before {self._towards} had taken one"
        self._guard.abandon(Ending(Outcome.SOURCE_GONE, reason))

    async def _open_rehearser(self, service: RehearsalService) -> Ending | None:
        """Before the destination hears of the migration: can it be rehearsed, and is what we know of the host true?"""
        destination = self.route.policy.destination
        host = None if destination is None else destination.host
        self._guard.allow_any_time()  # the rehearser has its own limit
        self._rehearser = self._make_rehearser(service, host)
        try:
            for warning in await self._rehearser.prepare():
                self.record.journal.warning(warning)
        except RehearsalUnavailable as error:
            self.record.not_rehearsed()
            return Ending(Outcome.NOT_REHEARSED, str(error))
        except StaleDescription as error:
            return Ending(Outcome.REFUSED, str(error))
        return None

    async def _prologue(self, intake: Intake, chunk: bytes) -> list[Buffer] | Ending:
        """Feed the rewriter until it lets the first bytes go."""
        while True:
            try:
                buffers = intake.feed(chunk) if chunk else intake.finish()
            except (FormatError, RewriteRefused) as error:
                if isinstance(error, RewriteRefused):
                    self.record.refused(error)
                elif not chunk:
                    return Ending(Outcome.SOURCE_GONE, f"the source closed the connection: {error}")
                return ending_of(error)
            if buffers:
                return buffers
            try:
                chunk = await self._source.receive_some()
            except trio.BrokenResourceError as error:
                return Ending(Outcome.SOURCE_GONE, f"the source's connection broke in the prologue: {error.__cause__}")

    def _header_expired(self) -> Ending:
        count = len(self._greeting.first) if self._intake is None else self._intake.rewriter.bytes_in
        reason = f"no whole prologue within {self.route.times.header_s:g} s (limits.header_time_s), {count} bytes came"
        return Ending(Outcome.LIMIT, reason)

    def _idle_allowance(self, intake: Intake) -> float:
        times = self.route.times
        return times.hold_idle_s if intake.rewriter.phase is Phase.HOLDING else times.idle_s

    def _idle_expired(self, intake: Intake) -> Ending:
        rewriter = intake.rewriter
        seconds = f"nothing moved for {self._idle_allowance(intake):g} s"
        if rewriter.phase is not Phase.HOLDING:
            return Ending(Outcome.LIMIT, f"{seconds} (limits.idle_time_s) while waiting for {rewriter.waiting_for}")
        held = f"{seconds} (limits.hold_idle_time_s) with {rewriter.held_bytes} bytes of device state held"
        try:
            rewriter.finish()
        except FormatError as error:
            # Nothing more will come: what is there is the stream, and this is what is wrong with it.
            return Ending(Outcome.BAD_STREAM, f"{held}: {error}")
        return Ending(Outcome.LIMIT, held)

    # Another channel.

    def _is_expected(self) -> bool:
        """Whether a migration takes this connection, which says nothing that we know."""
        return self._around.migrations.find_for_unknown(self._key, self._accepted, self._arrived) is not None

    async def _carry_channel(self, kind: ChannelKind, first: bytes) -> Ending:
        """Carry a channel beside a main one."""
        name = "a preempt channel"
        try:
            if kind is ChannelKind.MULTIFD:
                init = MultifdInit.parse(first)
                name = f"multifd channel {init.number}"
                self._guard.allow(lambda: self.route.times.header_s, self._main_missing)
                migration = await self._around.migrations.find(self._key, self._accepted, init.uuid, self._guard)
            else:
                expected = self._around.migrations.find_for_unknown(self._key, self._accepted, self._arrived)
                assert expected is not None, "the greeting has asked"  # noqa: S101
                migration = expected
                migration.join(self._guard, self._accepted)
                migration.preempt.take()
        except FormatError as error:
            return Ending(Outcome.BAD_STREAM, str(error))
        except TooManyChannels as error:
            return Ending(Outcome.TOO_MANY_CONNECTIONS, str(error))
        self.record.joins(migration.id, name, kind.value)
        self._guard.allow_any_time()  # its main channel keeps the time
        try:
            await migration.wait_turn(self._accepted)
            self._destination = await self._dial()
            # What tells the destination which channel it is, and then it is the next one's turn: the destination may
            # read on only once it has them all, and what follows can be more than its socket holds.
            await self._destination.send_buffers((first[:MULTIFD_INIT_BYTES],))
            migration.end_turn(self._accepted)
            await self._destination.send_buffers((first[MULTIFD_INIT_BYTES:],))
        except (DestinationUnreachable, *GONE) as error:
            ending = Ending(Outcome.DESTINATION_UNREACHABLE, f"{name}: {error}")
            migration.channel_lost(ending)
            return ending
        finally:
            migration.end_turn(self._accepted)
        self.record.relayed(Direction.TO_DESTINATION, len(first))
        return await self._relay_channel(migration, name, kind.value)

    async def _relay_channel(self, migration: Migration, name: str, kind: str) -> Ending:
        last = Ending(Outcome.DELIVERED, f"{name} has ended")

        def moved(direction: Direction, size: int) -> None:
            self.record.relayed(direction, size)
            migration.progress()

        def lost(ending: Ending) -> None:
            nonlocal last
            last = ending
            migration.channel_lost(ending)

        assert self._destination is not None, "it was dialled"  # noqa: S101
        with plain_pipes(self._source, self._destination) as pipes:
            relay = ChannelRelay(self._source, self._destination, name, moved, lost, pipes)
            with migration.carrying(carried(name, kind, self._source, self._destination, pipes)):
                await relay.run()
        if relay.was_reset and migration.keeper is not None:
            # A connection is reset when nobody has it any more.
            migration.keeper.end()
        return last

    def _main_missing(self) -> Ending:
        reason = (
            f"a multifd channel came, and no main channel (5145564d, QEVM) from {self._source.origin} within "
            f"{self.route.times.header_s:g} s (limits.header_time_s)"
        )
        return Ending(Outcome.LIMIT, reason)
