"""Who sees what becomes of device state, and writes it down: flight recorder and audit log.

A session tells its witness twice at most: when device state has been released, and when it ends. Nothing here is in the
way of either: facts are taken, and a thread writes (:mod:`proxyd.scribe`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import msgspec

from formats.arm64.register_id import name_of
from proxyd.audit import AuditLog
from proxyd.config import Config
from proxyd.journal import Journal
from proxyd.ports import CannotListen
from proxyd.recorder import Recorder
from proxyd.relay.intake import Rewriter
from proxyd.relay.outcome import Ending
from proxyd.rewrite.knowledge import builtin_digest
from proxyd.rewrite.recording import Early, Evidence, Recorded, Recording, report_of
from proxyd.rewrite.rewriter import StreamRewriter
from proxyd.routes import Route
from proxyd.scribe import Scribe

RELEASED = "released"


class Witness:
    """Of one session. ``about`` is on every line: which migration it is."""

    def __init__(self, office: Witnesses, route: Route, migration: str, source: str) -> None:
        self._office = office
        self._route = route
        self._migration = migration
        self._source = source
        self._recorded = False

    def released(self, rewriter: Rewriter) -> None:
        """Device state has left, and the commit point is passed."""
        self._record(rewriter, RELEASED, rewriter.forced or "")
        report = rewriter.report
        if report is not None and report.plan.changes:
            about, changes = self._about(rewriter), report.plan.changes
            self._office.audited(lambda log: log.changes(about, changes))

    def ended(self, rewriter: Rewriter, ending: Ending) -> None:
        """The session is over."""
        if not self._recorded:
            self._record(rewriter, ending.outcome.value, ending.reason)
        about = self._about(rewriter)
        self._office.audited(
            lambda log: log.event(about, "end", outcome=ending.outcome.value, outcome_reason=ending.reason)
        )

    def _about(self, rewriter: Rewriter) -> dict[str, Any]:
        return {
            "time": _now(),
            "migration": self._migration,
            "route": self._route.name,
            "source": self._source,
            "destination": str(self._route.destination),
            "machine": rewriter.machine,
            "proxyd": version("proxyd"),
            "knowledge": builtin_digest(),
        }

    def _record(self, rewriter: Rewriter, outcome: str, reason: str) -> None:
        recorder = self._office.recorder
        if recorder is None or not isinstance(rewriter, StreamRewriter):
            return
        evidence = rewriter.unproven()
        if evidence is None:
            return
        self._recorded = True
        plan = None if rewriter.report is None else rewriter.report.plan
        report = report_of(rewriter.machine, plan)
        machine, denied = rewriter.machine, rewriter.denied

        def write() -> None:
            recorder.write(self._made(evidence, machine, outcome, reason, report, denied=denied))

        self._office.scribe.submit(f"recording of migration {self._migration}", write)
        rewriter.evidence = None  # a postcopy can go on for hours, and holds it otherwise

    def _made(
        self,
        evidence: Evidence,
        machine: str | None,
        outcome: str,
        reason: str,
        report: dict[str, Any] | None,
        *,
        denied: bool,
    ) -> Recorded:
        policy = self._route.policy
        destination = policy.destination
        host = None if destination is None or destination.host is None else destination.host.to_json()
        profile = None if destination is None or destination.profile is None else destination.profile.text
        limits = self._route.stream_limits
        facts = Recording(
            version=1,
            proxyd=version("proxyd"),
            knowledge=builtin_digest(),
            time=_now(),
            migration=self._migration,
            route=self._route.name,
            source=self._source,
            machine=machine,
            outcome=outcome,
            reason=reason,
            kind="package" if evidence.package else "tail",
            offset=evidence.offset,
            page_size=evidence.page_size,
            early=tuple(Early(one.idstr, one.instance_id, one.version_id, one.payload_bytes) for one in evidence.early),
            host=None if host is None else msgspec.json.decode(host),
            profile=profile,
            allow=tuple(sorted(map(name_of, policy.allow))),
            limits={name: getattr(limits, name) for name in type(limits).__dataclass_fields__},
            report=report,
            before_bytes=0,
            after_bytes=0,
            denied=denied,
        )
        return Recorded(facts, bytes(evidence.before), b"".join(map(bytes, evidence.after)))


class Witnesses:
    """The daemon's. Without a recorder and an audit log nobody is one. Neither is there before :meth:`configured`.

    Resource handling: :meth:`close` it last; it writes what is left.
    """

    def __init__(self, journal: Journal) -> None:
        self.scribe = Scribe(journal)
        self.recorder: Recorder | None = None
        self._audit: AuditLog | None = None
        self._journal = journal

    @contextmanager
    def configured(self, config: Config) -> Iterator[None]:
        """Put a configuration in force if what is done meanwhile succeeds. The audit log is opened anew, where it may
        have been moved away.

        :raises CannotListen: the audit log cannot be opened.
        """
        file = config.audit.file
        try:
            audit = None if file is None else AuditLog(config.audit, config.relative(file))
        except OSError as error:
            raise CannotListen(f"audit.file: cannot open {file}: {error.strerror}") from error
        try:
            yield
        except BaseException:
            if audit is not None:
                audit.close()
            raise
        before, self._audit = self._audit, audit
        if before is not None:
            self.scribe.submit("audit log", before.close)
        directory = config.recorder.directory
        self.recorder = None if directory is None else Recorder(config.recorder, config.relative(directory))

    def audited(self, write: Callable[[AuditLog], None]) -> None:
        """Write to the audit log, if there is one."""
        audit = self._audit
        if audit is not None:
            self.scribe.submit("audit log", lambda: write(audit))

    def __call__(self, route: Route, migration: str, source: str) -> Witness:
        """A session's witness."""
        return Witness(self, route, migration, source)

    def close(self) -> None:
        """Write what is left, within a limit."""
        if self._audit is not None:
            self.scribe.submit("audit log", self._audit.close)
        self.scribe.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
