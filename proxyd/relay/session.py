"""One connection from a source, from its first byte to its outcome.

    accepted -> first bytes: what kind of channel? -> prologue: is the stream acceptable? -> dial -> relay -> outcome

The destination is dialled only when the rewriter first lets bytes go, because a connection that comes and goes without
data makes a waiting QEMU exit, and one that stays idle blocks its monitor (``migration/migration.c:
migration_ioc_process_incoming`` peeks in the main loop). A port probe therefore never reaches it.

Every refusal is RST, not FIN: after a FIN the source would go on sending.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from formats.channel import CLASSIFY_BYTES, ChannelKind, classify
from formats.errors import FormatError
from proxyd.endpoint import Address
from proxyd.journal import Journal
from proxyd.metrics import Metrics
from proxyd.relay.channel import DestinationUnreachable, Leg, dial
from proxyd.relay.commit_guard import CommitGuard
from proxyd.relay.intake import Buffer, Intake, RewriterFactory, ending_of, rewriter_for
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.record import SessionRecord
from proxyd.relay.rehearser import RehearsalUnavailable, Rehearser, RehearserFactory, ServiceRehearser
from proxyd.relay.rewrite_relay import RewriteRelay
from proxyd.rewrite.freshness import StaleDescription
from proxyd.rewrite.rewriter import Phase, RewriteRefused
from proxyd.routes import RehearsalService, Route

_UNSUPPORTED: Final = {
    ChannelKind.MULTIFD: (
        "this is a multifd channel, which is not supported by this version "
        "(at the source: migrate_set_capability multifd off)"
    ),
    ChannelKind.TLS: "this is a TLS handshake; migration over TLS is not supported by this version",
}

Dialler = Callable[[Address, float], Awaitable[Leg]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all sessions of a daemon share. Tests put a scripted rewriter and legs in memory here."""

    metrics: Metrics
    journal: Journal
    make_rewriter: RewriterFactory = rewriter_for
    dialler: Dialler = dial
    make_rehearser: RehearserFactory = ServiceRehearser


class MigrationSession:
    """One connection. :meth:`run` it once; :meth:`abandon` it from anywhere."""

    def __init__(self, source: Leg, route: Route, around: Surroundings) -> None:
        self.route = route
        self.record = SessionRecord(route.name, source.peer, around.metrics, around.journal, route.host_file)
        self._source = source
        self._destination: Leg | None = None
        self._dialler = around.dialler
        self._intake = Intake(around.make_rewriter(route), route.name, around.metrics)
        self._guard = CommitGuard()
        self._make_rehearser = around.make_rehearser
        self._rehearser: Rehearser | None = None
        self._silent = True  # the source has not said a byte

    @property
    def committed(self) -> bool:
        """Whether the guest may be running on the destination already."""
        return self._guard.committed

    def abandon(self, ending: Ending) -> bool:
        """End the session with both sides reset, unless it is committed. Says whether it could."""
        return self._guard.abandon(ending)

    async def run(self) -> Ending:
        """Carry the connection to its end.

        Resource handling: closes both legs, gracefully only if the relay ran to its end.

        Error handling: raises nothing but :class:`trio.Cancelled`, and that not past the commit point. What is
        unexpected is a bug of ours: it is logged, both legs are reset, and other sessions do not notice.
        """
        began = trio.current_time()
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
            self._intake.close()
            ending = ending or Ending(Outcome.DRAINED, "the daemon was stopped")
            self.record.ended(ending, trio.current_time() - began, silent=self._silent)
        return ending

    async def _carry(self) -> Ending:
        first = await self._first_bytes()
        if isinstance(first, Ending):
            return first
        buffers = await self._prologue(first)
        if isinstance(buffers, Ending):
            return buffers
        if self.route.rehearsal is not None and not self._intake.is_pipe:
            ending = await self._open_rehearser(self.route.rehearsal)
            if ending is not None:
                return ending
        try:
            self._guard.allow_any_time()  # the dialler has its limit for each address
            destination = self.route.destination
            assert isinstance(destination, Address)  # noqa: S101 - the snapshot takes no other yet
            self._destination = await self._dialler(destination, self.route.times.connect_s)
        except DestinationUnreachable as error:
            return Ending(Outcome.DESTINATION_UNREACHABLE, str(error))
        self.record.begins(self._destination.peer, self._intake)
        self._guard.allow(self._idle_allowance, self._idle_expired)
        relay = RewriteRelay(self._source, self._destination, self._intake, self._guard, self.record, self._rehearser)
        return await relay.run(buffers)

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

    async def _first_bytes(self) -> bytes | Ending:
        """Enough to tell what kind of channel this is, or how the connection ended before that."""
        first = b""
        while len(first) < CLASSIFY_BYTES:
            try:
                chunk = await self._source.receive_some()
            except trio.BrokenResourceError:
                chunk = b""
            if not chunk:
                found = f"found {first.hex()}" if first else "found nothing: a port probe?"
                return Ending(Outcome.NOT_MIGRATION, f"expected a migration stream, {found}")
            self._silent = False
            first += chunk
        kind = classify(first)
        if kind is ChannelKind.MAIN:
            return first
        if kind in _UNSUPPORTED:
            return Ending(Outcome.UNSUPPORTED, _UNSUPPORTED[kind])
        found = first[:CLASSIFY_BYTES].hex()
        return Ending(Outcome.NOT_MIGRATION, f"expected a migration stream (5145564d, QEVM), found {found}")

    async def _prologue(self, chunk: bytes) -> list[Buffer] | Ending:
        """Feed the rewriter until it lets the first bytes go."""
        while True:
            try:
                buffers = self._intake.feed(chunk) if chunk else self._intake.finish()
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
        reason = (
            f"no whole prologue within {self.route.times.header_s:g} s (limits.header_time_s), "
            f"{self._intake.rewriter.bytes_in} bytes came"
        )
        return Ending(Outcome.LIMIT, reason)

    def _idle_allowance(self) -> float:
        times = self.route.times
        return times.hold_idle_s if self._intake.rewriter.phase is Phase.HOLDING else times.idle_s

    def _idle_expired(self) -> Ending:
        rewriter = self._intake.rewriter
        seconds = f"nothing moved for {self._idle_allowance():g} s"
        if rewriter.phase is not Phase.HOLDING:
            return Ending(Outcome.LIMIT, f"{seconds} (limits.idle_time_s) while waiting for {rewriter.waiting_for}")
        held = f"{seconds} (limits.hold_idle_time_s) with {rewriter.held_bytes} bytes of device state held"
        try:
            rewriter.finish()
        except FormatError as error:
            # Nothing more will come: what is there is the stream, and this is what is wrong with it.
            return Ending(Outcome.BAD_STREAM, f"{held}: {error}")
        return Ending(Outcome.LIMIT, held)
