"""Every metric of the daemon, declared once: name, type, labels, help.

Labels are bounded by construction: route names come from the configuration, everything else from a closed enum. A
register name, a machine name or an address never becomes a label. ``docs/metrics.md`` documents each; a test scrapes
a running daemon and compares.

Facts are counted where they become known, during a transfer and not at its end, so that a long migration is visible.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from enum import StrEnum
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from proxyd.rewrite.firewall import FirewallMode, FirewallRule
from proxyd.rewrite.plan import Action
from proxyd.rewrite.verdict import Verdict

if TYPE_CHECKING:
    from proxyd.rewrite.plan import Plan, Refusal


# A second series per series, with the time at which the first was made, tells an operator nothing.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Direction(StrEnum):
    """Which way bytes went."""

    TO_DESTINATION = "to_destination"
    TO_SOURCE = "to_source"


# From below a scheduler's time slice to where a guest's network connections begin to suffer.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


SECTION_KINDS: Final = ("start", "part", "end", "full")
CHANNEL_KINDS: Final = ("multifd", "preempt", "recovery")
REHEARSAL_RESULTS: Final = ("passed", "refused", "unavailable")
REGISTER_ACTIONS: Final = (*(action.value for action in Action), "refuse")


class Metrics:
    """The daemon's metrics in a registry of their own, so that two daemons can live in one process (tests do)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # Resident memory and open files of the process, under the names that every Prometheus dashboard knows.
        ProcessCollector(registry=self.registry)
        build = Info("proxyd_build", "Version of proxyd and of the Python that runs it.", registry=self.registry)
        build.info({"version": version("proxyd"), "python": platform.python_version()})
        self._bytes = self._counter("proxyd_bytes", "Bytes relayed.", "route", "direction")
        self._sections = self._counter("proxyd_sections", "Sections seen in streams, by kind.", "route", "kind")
        self._migrations = self._counter("proxyd_migrations", "Connections that ended, by outcome.", "route", "outcome")
        self._registers = self._counter(
            "proxyd_registers", "Registers changed or refused, per vCPU.", "route", "action", "verdict"
        )
        self._rehearsals = self._counter("proxyd_rehearsals", "Rehearsals asked for, by result.", "route", "result")
        self._channels = self._counter(
            "proxyd_channels", "Channels beside the main one that joined a migration, by kind.", "route", "kind"
        )
        self._findings = self._counter(
            "proxyd_firewall_findings", "What firewalls of routes found, by rule and mode.", "route", "rule", "mode"
        )
        self._reloads = self._counter("proxyd_reloads", "Reloads of the configuration.", "result")
        for result in ("applied", "refused"):
            self._reloads.labels(result)
        self._lost_lines = self._counter("proxyd_log_lines_lost", "Log lines that standard error did not take.")
        self._sessions = self._gauge(
            "proxyd_active_sessions", "Connections being served, by phase of the stream.", "route", "phase"
        )
        self._strangers = self._gauge(
            "proxyd_silent_connections", "Connections that have not shown yet that they are migrations."
        )
        self._held = self._gauge("proxyd_held_bytes", "Bytes of streams held back at this moment.", "route")
        self._draining = self._gauge("proxyd_draining", "1 while the daemon drains, otherwise 0.")
        self._loaded = self._gauge(
            "proxyd_config_loaded_timestamp_seconds", "When the configuration in force was loaded (Unix time)."
        )
        self._hold = self._histogram(
            "proxyd_hold_seconds", "First held byte of device state to its release.", _SECONDS, "route"
        )
        self._rewrite = self._histogram(
            "proxyd_rewrite_seconds", "Plan, rewrite and self-check of one device state.", _SECONDS, "route"
        )

        self._rehearsal = self._histogram(
            "proxyd_rehearsal_seconds", "Rehearsal of one guest's registers in the held window.", _SECONDS, "route"
        )

    def count_bytes(self, route: str, direction: Direction, count: int) -> None:
        """Bytes that a leg has taken."""
        self._bytes.labels(route, direction.value).inc(count)

    def count_sections(self, route: str, kind: str, count: int) -> None:
        """Sections of one kind (start, part, end, full) since the last call."""
        self._sections.labels(route, kind).inc(count)

    def count_migration(self, route: str, outcome: str) -> None:
        """A connection ended."""
        self._migrations.labels(route, outcome).inc()

    def count_plan(self, route: str, plan: Plan) -> None:
        """Every change of a plan that was carried out."""
        for change in plan.changes:
            self._registers.labels(route, change.action.value, change.verdict.value).inc()

    def count_refusals(self, route: str, refusals: tuple[Refusal, ...]) -> None:
        """Every register that stopped a migration."""
        for refusal in refusals:
            self._registers.labels(route, "refuse", refusal.verdict.value).inc()

    def count_channel(self, route: str, kind: str) -> None:
        """A channel beside a main one, by :data:`CHANNEL_KINDS`."""
        self._channels.labels(route, kind).inc()

    def count_rehearsal(self, route: str, result: str, seconds: float | None = None) -> None:
        """A rehearsal, by :data:`REHEARSAL_RESULTS`; ``seconds`` of the held window, where it got that far."""
        self._rehearsals.labels(route, result).inc()
        if seconds is not None:
            self._rehearsal.labels(route).observe(seconds)

    def count_finding(self, route: str, rule: str, mode: str) -> None:
        """Something that a route's firewall found."""
        self._findings.labels(route, rule, mode).inc()

    def count_reload(self, *, applied: bool) -> None:
        """A reload was applied, or refused and changed nothing."""
        self._reloads.labels("applied" if applied else "refused").inc()

    def count_lost_lines(self, count: int) -> None:
        """Log lines that nobody will read. Called from any thread."""
        self._lost_lines.inc(count)

    def move_session(self, route: str, before: str | None, after: str | None) -> None:
        """A session went from one phase to another; ``None`` is outside."""
        if before is not None:
            self._sessions.labels(route, before).dec()
        if after is not None:
            self._sessions.labels(route, after).inc()

    def watch_strangers(self, count: Callable[[], int]) -> None:
        """Ask for their number at each scrape, from another thread."""
        self._strangers.set_function(count)

    def add_held(self, route: str, count: int) -> None:
        """Bytes held back, more (or, negative, fewer) than at the last call."""
        self._held.labels(route).inc(count)

    def observe_release(self, route: str, *, hold_s: float, rewrite_s: float) -> None:
        """A device state was released."""
        self._hold.labels(route).observe(hold_s)
        self._rewrite.labels(route).observe(rewrite_s)

    def set_draining(self, *, draining: bool) -> None:
        """Whether new connections are refused."""
        self._draining.set(int(draining))

    def set_loaded(self, unix_time: float) -> None:
        """A configuration came into force."""
        self._loaded.set(unix_time)

    def declare_route(self, route: str, *, outcomes: Iterable[str], phases: Iterable[str]) -> None:
        """Make a new route's series appear at zero: a rate needs a first sample, and an alert something to watch."""
        for direction in Direction:
            self._bytes.labels(route, direction.value)
        for outcome in outcomes:
            self._migrations.labels(route, outcome)
        for phase in phases:
            self._sessions.labels(route, phase)
        for kind in SECTION_KINDS:
            self._sections.labels(route, kind)
        for action in REGISTER_ACTIONS:
            for verdict in Verdict:
                self._registers.labels(route, action, verdict.value)
        for kind in CHANNEL_KINDS:
            self._channels.labels(route, kind)
        for result in REHEARSAL_RESULTS:
            self._rehearsals.labels(route, result)
        for rule in FirewallRule:
            for mode in (FirewallMode.ALERT, FirewallMode.DENY):
                self._findings.labels(route, rule.value, mode.value)
        self._rehearsal.labels(route)
        self._held.labels(route)
        self._hold.labels(route)
        self._rewrite.labels(route)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
