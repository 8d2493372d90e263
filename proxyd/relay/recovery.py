"""The main channel over which a broken postcopy goes on, as a stream of which nothing is rewritten.

The guest runs on the destination and its device state is there; what comes is bitmaps, pages and their end
(``migration/migration.c: postcopy_do_resume``). So the session is past its commit point from the first byte, and what a
:class:`~proxyd.relay.intake.Rewriter` would hold back is nothing. The return path is read as always: its SHUT tells
how the migration ended.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from proxyd.rewrite.rewriter import Phase

if TYPE_CHECKING:
    from proxyd.relay.intake import Buffer
    from proxyd.rewrite.plan import Plan
    from proxyd.rewrite.rehearsal import Rehearsal
    from proxyd.rewrite.report import RewriteReport


class RecoveryStream:
    """A :class:`~proxyd.relay.intake.Rewriter` that passes everything."""

    phase = Phase.OPAQUE
    held_bytes = 0
    waiting_for = "the rest of a postcopy"
    return_path = True
    machine: str | None = None
    passthrough_reason: str | None = "the device state went before the connection broke"
    report: RewriteReport | None = None
    postcopy_advised = True
    switched = True
    forced: str | None = None
    planned: Plan | None = None

    def __init__(self) -> None:
        self.bytes_in = 0
        self.sections: Counter[str] = Counter()

    def feed(self, chunk: Buffer) -> list[Buffer]:
        """All of it."""
        self.bytes_in += len(chunk)
        return [chunk]

    def release(self, _rehearsal: Rehearsal) -> list[Buffer]:
        """Never called: there is no plan."""
        raise AssertionError("a recovery has nothing to rehearse")

    def finish(self) -> list[Buffer]:
        """Nothing is held."""
        return []
