"""One connection from a source, from its first byte to its outcome.

    accepted -> first bytes: what kind of channel? -> prologue: is the stream acceptable? -> dial -> relay -> outcome

The destination is dialled only when the rewriter first lets bytes go, because a connection that comes and goes without
data makes a waiting QEMU exit, and one that stays idle blocks its monitor (``migration/migration.c:
migration_ioc_process_incoming`` peeks in the main loop). A port probe therefore never reaches it. The other channels of
a migration are dialled behind its main one (:mod:`.migration`).

Every refusal is RST, not FIN: after a FIN the source would go on sending.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from formats.channel import MULTIFD_INIT_BYTES, ChannelKind, MultifdInit
from formats.errors import FormatError
from proxyd.endpoint import Dialled
from proxyd.metrics import Direction
from proxyd.relay.channel import GONE, DestinationUnreachable, Leg
from proxyd.relay.channel_relay import ChannelRelay
from proxyd.relay.commit_guard import CommitGuard
from proxyd.relay.committed_stream import a_recovery
from proxyd.relay.destination import fixed_destination
from proxyd.relay.dialling import dial_destination, watched
from proxyd.relay.greeting import Greeting
from proxyd.relay.inspection import Inspection
from proxyd.relay.intake import Buffer, Intake
from proxyd.relay.keeping import Keeper, carried
from proxyd.relay.migration import Key, Migration, TooManyChannels
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.patience import idle_allowance, idle_expired, main_missing
from proxyd.relay.prologue import read_prologue
from proxyd.relay.pump import plain_pipes
from proxyd.relay.record import SessionRecord
from proxyd.relay.rehearser import RehearsalUnavailable, Rehearser
from proxyd.relay.rewrite_relay import RewriteRelay
from proxyd.relay.surroundings import Surroundings
from proxyd.rewrite.firewall import Finding, FirewallMode
from proxyd.rewrite.freshness import StaleDescription
from proxyd.rewrite.rewriter import RewriteRefused
from proxyd.routes import RehearsalService, Route


class MigrationSession:
    """One connection. :meth:`run` it once; :meth:`abandon` it from anywhere.

    :param towards: where it leads, for a route whose connections do not all lead to the same place.
    :param accepted: its place in the order of accept, for a connection that had to shake hands first.
    :param admit: called once it has shown that it is a migration, or one's channel; returns why it may not go on.
    """

    def __init__(
        self,
        source: Leg,
        route: Route,
        around: Surroundings,
        towards: Dialled | None = None,
        accepted: int | None = None,
        admit: Callable[[], Ending | None] = lambda: None,
    ) -> None:
        self.route = route
        self._admit = admit
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
    def spoke(self) -> bool:
        """Whether the source has said anything."""
        return bool(self._greeting.first)

    @property
    def is_main(self) -> bool:
        """Whether this connection is a migration, as opposed to one of its channels or something else."""
        return self._migration is not None

    @property
    def is_growing(self) -> bool:
        """Whether more connections may come that belong to the same migration; a new process must not get them."""
        if self._migration is None:
            return self._destination is None  # it has not said what it is, or waits for its main channel
        return self._migration.is_growing(self.route.times.header_s)

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

    def forget(self) -> None:
        """It has ended: let go of the stream's state. Sessions are in cycles of references, collected late."""
        self._intake = None
        self._guard.allow_any_time()

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
            if self._migration is not None and not ran_to_its_end:
                await trio.sleep(self._migration.preempt.unsettled(trio.current_time()))
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
            self.record.ended(
                ending, trio.current_time() - self._began, silent=not self._greeting.first, intake=self._intake
            )
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
        if around.witness is not None:
            self.record.witness = around.witness(self.route, self.record.id, self._source.peer)
        rewriter = around.make_rewriter(self.route)
        intake = Intake(rewriter, self.route.metrics_label, around.metrics, self._holds, self._found)
        self._intake = intake
        buffers = await read_prologue(intake, self._source, self.record, first)
        migration.page_size = rewriter.page_size
        if rewriter.postcopy_advised:
            migration.preempt.advise(rewriter.machine, visible=not intake.is_pipe)
        if isinstance(buffers, Ending):
            return buffers
        refusal = self._admit()
        if refusal is not None:
            return refusal
        if self.route.rehearsal is not None and not intake.is_pipe:
            ending = await self._open_rehearser(self.route.rehearsal)
            if ending is not None:
                return ending
        try:
            self._destination = await self._dial(fin=intake.rewriter.return_path)
        except DestinationUnreachable as error:
            return Ending(Outcome.DESTINATION_UNREACHABLE, str(error))
        self.record.begins(self._destination.peer, intake)
        times = self.route.times
        self._guard.allow(lambda: idle_allowance(times, intake), lambda: idle_expired(times, intake))
        return await self._relay_main(intake, migration, buffers)

    async def _carry_recovery(self, first: bytes) -> Ending:
        """The main channel over which a broken postcopy goes on: the guest runs on the destination already."""
        migration = self._around.migrations.begin(self._key, self.record.id, self._guard, self._accepted)
        self._migration = migration
        self._keep(migration)
        migration.preempt.recover()
        intake = Intake(a_recovery(), self.route.metrics_label, self._around.metrics)
        self._intake = intake
        refusal = self._admit()
        if refusal is not None:
            return refusal
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

    def _header_expired(self) -> Ending:
        count = len(self._greeting.first) if self._intake is None else self._intake.rewriter.bytes_in
        reason = f"no whole prologue within {self.route.times.header_s:g} s (limits.header_time_s), {count} bytes came"
        return Ending(Outcome.LIMIT, reason)

    def _found(self, finding: Finding) -> None:
        self.record.found(finding, self.route.policy.firewall.mode)

    def _holds(self, size: int) -> None:
        self._around.held.change(self._source.origin, self.abandon, size)

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
                times, origin = self.route.times, self._source.origin
                self._guard.allow(lambda: times.header_s, lambda: main_missing(times, origin))
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
        refusal = self._admit()
        if refusal is not None:
            # The migration would wait for this channel for ever.
            migration.end_turn(self._accepted)
            migration.channel_lost(refusal)
            return refusal
        self._guard.allow_any_time()  # its main channel keeps the time
        try:
            await migration.wait_turn(self._accepted)
            inspection = self._inspect(migration) if kind is ChannelKind.MULTIFD else None
            self._destination = await self._dial()
            # What tells the destination which channel it is, and then it is the next one's turn: the destination may
            # read on only once it has them all, and what follows can be more than its socket holds.
            await self._destination.send_buffers((first[:MULTIFD_INIT_BYTES],))
            migration.end_turn(self._accepted)
            if inspection is not None:
                inspection.look(first[MULTIFD_INIT_BYTES:])
            await self._destination.send_buffers((first[MULTIFD_INIT_BYTES:],))
        except RewriteRefused as error:
            ending = Ending(Outcome.REFUSED, f"{name}: {error}")
            migration.channel_lost(ending)
            return ending
        except (DestinationUnreachable, *GONE) as error:
            ending = Ending(Outcome.DESTINATION_UNREACHABLE, f"{name}: {error}")
            migration.channel_lost(ending)
            return ending
        finally:
            migration.end_turn(self._accepted)
        self.record.relayed(Direction.TO_DESTINATION, len(first))
        return await self._relay_channel(migration, name, kind.value, inspection)

    def _inspect(self, migration: Migration) -> Inspection | None:
        policy = self.route.policy.firewall
        if policy.mode is FirewallMode.OFF or migration.page_size is None:
            return None
        return Inspection(policy, migration.page_size, self._found)

    async def _relay_channel(self, migration: Migration, name: str, kind: str, inspection: Inspection | None) -> Ending:
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
            if pipes is not None:
                pipes[0].widen()
            relay = ChannelRelay(self._source, self._destination, name, moved, lost, pipes, inspection)
            with migration.carrying(carried(name, kind, self._source, self._destination, pipes)):
                await relay.run()
        if relay.was_reset and migration.keeper is not None:
            # A connection is reset when nobody has it any more.
            migration.keeper.end()
        return last
