"""Streams of which nothing is rewritten because they are past their commit point from the first byte.

One is the main channel over which a broken postcopy goes on: the guest runs on the destination and its device state is
there; what comes is bitmaps, pages and their end (``migration/migration.c: postcopy_do_resume``). The other is a
migration that another process has brought to its commit point (:mod:`.adoption`). What a
:class:`~proxyd.relay.intake.Rewriter` would hold back is nothing. The return path is read as always: its SHUT tells
how the migration ended.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from proxyd.rewrite.rewriter import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxyd.relay.intake import Buffer
    from proxyd.rewrite.firewall import Finding
    from proxyd.rewrite.plan import Plan
    from proxyd.rewrite.rehearsal import Rehearsal
    from proxyd.rewrite.report import RewriteReport


class CommittedStream:
    """A :class:`~proxyd.relay.intake.Rewriter` that passes everything."""

    held_bytes = 0
    waiting_for = "the end of the migration"
    report: RewriteReport | None = None
    forced: str | None = None
    planned: Plan | None = None
    page_size: int | None = None
    findings: Sequence[Finding] = ()

    def __init__(
        self,
        reason: str,
        *,
        phase: Phase = Phase.OPAQUE,
        machine: str | None = None,
        return_path: bool = True,
        switched: bool = True,
    ) -> None:
        self.passthrough_reason: str | None = reason
        self.phase = phase
        self.machine = machine
        self.return_path = return_path
        self.switched = switched
        self.postcopy_advised = switched
        self.bytes_in = 0
        self.sections: Counter[str] = Counter()

    def feed(self, chunk: Buffer) -> list[Buffer]:
        """All of it."""
        self.bytes_in += len(chunk)
        return [chunk]

    def release(self, _rehearsal: Rehearsal) -> list[Buffer]:
        """Never called: there is no plan."""
        raise AssertionError("a committed stream has nothing to rehearse")

    def finish(self) -> list[Buffer]:
        """Nothing is held."""
        return []

    def close(self) -> None:
        """Nothing is held."""


def a_recovery() -> CommittedStream:
    """A postcopy that goes on."""
    return CommittedStream("the device state went before the connection broke")
