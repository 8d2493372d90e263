"""What is told of one session: its log lines and its share of the metrics. Decides nothing."""

from __future__ import annotations

import secrets
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from proxyd.journal import Journal, write_plan, write_refusals
from proxyd.metrics import Direction, Metrics
from proxyd.relay.intake import Intake, Release, Rewriter
from proxyd.relay.outcome import Ending, Outcome
from proxyd.rewrite.firewall import Finding, FirewallMode
from proxyd.rewrite.rehearsal import Rehearsal
from proxyd.rewrite.rewriter import RewriteRefused

# What an operator expects to see. Everything else is a warning, a bug of ours an error.
_AS_WISHED: Final = frozenset({Outcome.COMPLETED, Outcome.DELIVERED, Outcome.NOT_MIGRATION})

_PROPOSE: Final = (
    "the destination failed with registers that the plan held good; if its QEMU's log is about registers, this drafts "
    "the rule that would have fitted, from that log and a stream of the guest saved on its source"
)


def propose_command(host_file: str | None) -> str:
    """What an operator runs then; the words in capitals are to be filled in."""
    destination = "" if host_file is None else f" --destination {shlex.quote(host_file)}"
    return f"proxyd explain --propose --stream STREAM{destination} QEMU.log"


class Witness(Protocol):
    """Somebody who writes down what becomes of device state. Waits for nothing and raises nothing that is expected."""

    def released(self, rewriter: Rewriter) -> None:
        """It has left, and the commit point is passed."""

    def ended(self, rewriter: Rewriter, ending: Ending) -> None:
        """The migration is over."""


class SessionRecord:
    """Every line carries the session's migration id and route, so that one id finds the whole story."""

    def __init__(
        self,
        route: str,
        source: str,
        metrics: Metrics,
        journal: Journal,
        host_file: str | None = None,
        *,
        label: str | None = None,
        ident: str | None = None,
    ) -> None:
        self.witness: Witness | None = None
        self.id = ident or secrets.token_hex(6)
        self.migration = self.id  # the main channel's, once this is known for one of its channels
        self.journal = journal.having(migration=self.id, route=route)
        self._route = route
        self._label = label or route
        self._source = source
        self._host_file = host_file
        self._channel: str | None = None
        self._planned = False  # device state was released that a plan held good
        self._metrics = metrics
        self._bytes: Counter[Direction] = Counter()
        self._rehearsal: Rehearsal | None = None
        self._rehearsal_s: float | None = None

    def begins(self, destination: str, intake: Intake) -> None:
        """The destination is connected."""
        self.journal.info(
            "migration begins", source=self._source, destination=destination, machine=intake.rewriter.machine
        )
        self._passthrough(intake)

    def joins(self, migration: str, name: str, kind: str) -> None:
        """This is a channel beside the main one: its lines are the migration's, and its end is no migration's."""
        self._channel = name
        self.migration = migration
        self.journal = self.journal.having(migration=migration, route=self._route)
        self._metrics.count_channel(self._label, kind)
        self.journal.debug(f"{name} joins its migration", source=self._source)

    def recovers(self, destination: str) -> None:
        """A postcopy migration goes on over a new main channel."""
        self._metrics.count_channel(self._label, "recovery")
        self.journal.info("a postcopy migration recovers", source=self._source, destination=destination)

    def adopted(self, channels: int) -> None:
        """Another process has brought it to its commit point, and is gone."""
        self.journal.warning(
            "a migration past its commit point is taken up again", source=self._source, channels=channels
        )

    def relayed_bytes(self, direction: Direction) -> int:
        """Bytes that this connection has moved so far."""
        return self._bytes[direction]

    def relayed(self, direction: Direction, count: int) -> None:
        """A leg has taken bytes."""
        self._bytes[direction] += count
        with self._contained():
            self._metrics.count_bytes(self._label, direction, count)

    def released(self, intake: Intake) -> None:
        """The commit point is passed, and the released bytes are with the kernel."""
        if intake.released is not None:
            with self._contained():
                self._tell_release(intake, intake.released)

    def _tell_release(self, intake: Intake, released: Release) -> None:
        if self.witness is not None:
            self.witness.released(intake.rewriter)
        self._tell_rehearsal("passed")
        report = intake.rewriter.report
        if intake.rewriter.forced is not None:
            self.journal.error(intake.rewriter.forced)
        if report is None:
            self._passthrough(intake)
        else:
            self._planned = True
            self._metrics.count_plan(self._label, report.plan)
            write_plan(self.journal, report.plan)
        self.journal.info(
            "device state released",
            plan=None if report is None else report.plan.outcome.value,
            changes=None if report is None else len(report.plan.changes),
            hold_s=released.hold_s,
            rewrite_s=released.rewrite_s,
            rehearsal_s=self._rehearsal_s,
        )

    def rehearsed(self, rehearsal: Rehearsal, seconds: float) -> None:
        """The destination's KVM has said what it makes of the registers; ``seconds`` as the guest waited."""
        self._rehearsal = rehearsal
        self._rehearsal_s = seconds

    def not_rehearsed(self) -> None:
        """It was to be rehearsed, and nobody could."""
        self._metrics.count_rehearsal(self._label, "unavailable")

    def found(self, finding: Finding, mode: FirewallMode) -> None:
        """The route's firewall has found something. Where it refuses the migration, the last line says so."""
        self._metrics.count_finding(self._label, finding.rule.value, mode.value)
        if mode is FirewallMode.ALERT:
            self.journal.warning(f"firewall: {finding}", rule=finding.rule.value)

    def refused(self, error: RewriteRefused) -> None:
        """The rules forbid this stream, or a rehearsal has shown that it would not arrive whole."""
        self._tell_rehearsal("refused")
        self._metrics.count_refusals(self._label, error.refusals)
        write_refusals(self.journal, error.refusals)

    def failed(self, error: Exception) -> None:
        """A bug of ours."""
        self.journal.error("a bug of proxyd's; please report it with these lines", exc_info=error)

    def ended(self, ending: Ending, seconds: float, *, silent: bool, intake: Intake | None = None) -> None:
        """The last line. ``silent``: the peer never said a byte, which port probes do all day."""
        with self._contained():
            if self.witness is not None and intake is not None:
                self.witness.ended(intake.rewriter, ending)
        with self._contained():
            self._tell_end(ending, seconds, silent=silent)

    def _tell_end(self, ending: Ending, seconds: float, *, silent: bool) -> None:
        if self._channel is not None:
            self.journal.debug(
                f"{self._channel} leaves: {ending.reason}",
                bytes_to_destination=self._bytes[Direction.TO_DESTINATION],
                bytes_to_source=self._bytes[Direction.TO_SOURCE],
            )
            return
        self._metrics.count_migration(self._label, ending.outcome.value)
        if self._planned and ending.outcome is Outcome.DESTINATION_FAILED:
            self.journal.warning(_PROPOSE, propose=propose_command(self._host_file))
        if silent:
            tell = self.journal.debug
        elif ending.outcome in _AS_WISHED:
            tell = self.journal.info
        else:
            tell = self.journal.warning
        tell(
            f"{ending.outcome.value}: {ending.reason}",
            outcome=ending.outcome.value,
            source=self._source,
            bytes_to_destination=self._bytes[Direction.TO_DESTINATION],
            bytes_to_source=self._bytes[Direction.TO_SOURCE],
            seconds=round(seconds, 3),
        )

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """Past the commit point a guest runs on the destination, and a bug in telling of it must not cut it off."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - told if it can be, and never more than told
            with suppress(Exception):
                self.failed(error)

    def _tell_rehearsal(self, result: str) -> None:
        if self._rehearsal is None:
            return
        self._metrics.count_rehearsal(self._label, result, self._rehearsal_s)
        self.journal.info(f"rehearsed: {self._rehearsal.summary()}", rehearsal_s=self._rehearsal_s)
        for finding in self._rehearsal.findings:
            self.journal.debug(f"rehearsed: {finding}")

    def _passthrough(self, intake: Intake) -> None:
        if intake.rewriter.passthrough_reason is not None:
            self.journal.info(f"nothing is rewritten: {intake.rewriter.passthrough_reason}")
