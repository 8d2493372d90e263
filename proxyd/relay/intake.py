"""The rewriter as a session drives it, with the facts that its every step yields counted at once.

The rewriter has no clock and counts nothing (it decides what changes); the relay knows no section and no register (it
moves bytes). What is between the two is here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from formats.errors import FormatError, LimitExceeded, TruncatedStream, UnsupportedStream
from proxyd.metrics import Metrics
from proxyd.relay.outcome import Ending, Outcome
from proxyd.rewrite.firewall import Finding
from proxyd.rewrite.plan import Plan
from proxyd.rewrite.rehearsal import Rehearsal
from proxyd.rewrite.report import RewriteReport
from proxyd.rewrite.rewriter import Phase, RewriteRefused, StreamRewriter
from proxyd.routes import Route

Buffer = bytes | memoryview

# From here on the session is a pipe: the rewriter has let go of everything, and a proxy that cannot say where the
# stream's commit point is (another architecture) has to behave as if it were past.
PIPE_PHASES: Final = frozenset({Phase.RELEASED, Phase.OPAQUE})

_HELD: Final = frozenset({Phase.HOLDING, Phase.REHEARSING, Phase.RELEASED})


class Rewriter(Protocol):
    """What a session needs of :class:`proxyd.rewrite.rewriter.StreamRewriter`. Tests have a scripted one."""

    @property
    def phase(self) -> Phase:
        """Where the stream is."""

    @property
    def held_bytes(self) -> int:
        """Bytes taken in and not handed out."""

    @property
    def bytes_in(self) -> int:
        """Bytes taken in."""

    @property
    def waiting_for(self) -> str:
        """What would have to come next."""

    @property
    def return_path(self) -> bool:
        """Whether the stream has opened a return path."""

    @property
    def machine(self) -> str | None:
        """The machine type, once it is known."""

    @property
    def page_size(self) -> int | None:
        """The guest's pages, in bytes, where it is known and of use."""

    @property
    def findings(self) -> Sequence[Finding]:
        """What the route's firewall has found; only ever longer."""

    @property
    def passthrough_reason(self) -> str | None:
        """Why nothing is rewritten."""

    @property
    def report(self) -> RewriteReport | None:
        """What was rewritten; set at release."""

    @property
    def sections(self) -> Mapping[str, int]:
        """Sections seen, by kind."""

    @property
    def postcopy_advised(self) -> bool:
        """Whether the source may switch to postcopy, over another channel as well."""

    @property
    def switched(self) -> bool:
        """Whether the source has switched to postcopy: its package is coming, or has come."""

    @property
    def forced(self) -> str | None:
        """Why device state was delivered that should have been refused."""

    @property
    def planned(self) -> Plan | None:
        """The plan that awaits its rehearsal."""

    def feed(self, chunk: Buffer) -> list[Buffer]:
        """What may be sent now that ``chunk`` is there."""

    def release(self, rehearsal: Rehearsal) -> list[Buffer]:
        """What may be sent now that ``planned`` was rehearsed."""

    def finish(self) -> list[Buffer]:
        """What may be sent now that the source has closed."""

    def close(self) -> None:
        """Let go of what is held."""


RewriterFactory = Callable[[Route], Rewriter]


def rewriter_for(route: Route) -> Rewriter:
    """The real one."""
    return StreamRewriter(route.policy, route.stream_limits)


@dataclass(frozen=True, slots=True)
class Release:
    """The moment at which held device state was handed out."""

    hold_s: float
    rewrite_s: float


class Intake:
    """One stream's rewriter, counted."""

    def __init__(
        self,
        rewriter: Rewriter,
        route: str,
        metrics: Metrics,
        holds: Callable[[int], object] = lambda _size: None,
        found: Callable[[Finding], object] = lambda _finding: None,
    ) -> None:
        self.rewriter = rewriter
        self.released: Release | None = None
        self._route = route
        self._metrics = metrics
        self._sections: Counter[str] = Counter()
        self._held = 0
        self._deposited = 0
        self._holds = holds  # hears how many bytes are held, whenever that changes
        self._found = found  # hears of what the firewall finds
        self._told = 0
        self._phase: Phase | None = rewriter.phase
        self._hold_since: float | None = None
        self._rewrite_s = 0.0
        metrics.move_session(route, None, rewriter.phase.value)

    @property
    def is_pipe(self) -> bool:
        """Whether everything that comes passes from now on."""
        return self.rewriter.phase in PIPE_PHASES

    @property
    def held_for(self) -> float:
        """Seconds since the first byte of device state that was held; 0 before."""
        return 0.0 if self._hold_since is None else trio.current_time() - self._hold_since

    def feed(self, chunk: Buffer) -> list[Buffer]:
        """As the rewriter's. Raises what it raises."""
        arrived = trio.current_time()
        began = time.perf_counter()
        try:
            buffers = self.rewriter.feed(chunk)
        finally:
            self._count()
        if self._hold_since is None and self.rewriter.phase in _HELD:
            self._hold_since = arrived
        self._rewrite_s = time.perf_counter() - began
        self._observe_release()
        return buffers

    def release(self, rehearsal: Rehearsal) -> list[Buffer]:
        """As the rewriter's. Raises what it raises."""
        try:
            buffers = self.rewriter.release(rehearsal)
        finally:
            self._count()
        self._observe_release()
        return buffers

    def deposit(self, size: int) -> None:
        """So many released bytes are on their way: they are still ours until the destination's socket has them."""
        self._deposited = size
        self._count()

    def _observe_release(self) -> None:
        if self.released is None and self._hold_since is not None and self.rewriter.phase is Phase.RELEASED:
            self.released = Release(trio.current_time() - self._hold_since, self._rewrite_s)
            self._metrics.observe_release(self._route, hold_s=self.released.hold_s, rewrite_s=self.released.rewrite_s)

    def finish(self) -> list[Buffer]:
        """As the rewriter's. Raises what it raises, and :class:`TruncatedStream` where it does not see a whole."""
        buffers = self.rewriter.finish()
        if not self.is_pipe:
            raise TruncatedStream(f"the stream ended while waiting for {self.rewriter.waiting_for}")
        return buffers

    def close(self) -> None:
        """The session is over: it is in no phase and holds nothing."""
        if self._phase is not None:
            self._metrics.move_session(self._route, self._phase.value, None)
            self._metrics.add_held(self._route, -self._held)
            self._holds(0)
            self._phase = None
        self.rewriter.close()

    def _count(self) -> None:
        for kind, count in self.rewriter.sections.items():
            if count != self._sections[kind]:
                self._metrics.count_sections(self._route, kind, count - self._sections[kind])
                self._sections[kind] = count
        for finding in self.rewriter.findings[self._told :]:
            self._told += 1
            self._found(finding)
        held = self.rewriter.held_bytes + self._deposited
        if held != self._held:
            self._metrics.add_held(self._route, held - self._held)
            self._held = held
            self._holds(held)
        if self._phase is not None and self._phase is not self.rewriter.phase:
            self._metrics.move_session(self._route, self._phase.value, self.rewriter.phase.value)
            self._phase = self.rewriter.phase


def ending_of(error: FormatError | RewriteRefused) -> Ending:
    """What a stream that cannot be carried ends with."""
    outcome = {
        RewriteRefused: Outcome.REFUSED,
        LimitExceeded: Outcome.LIMIT,
        UnsupportedStream: Outcome.UNSUPPORTED,
    }.get(type(error), Outcome.BAD_STREAM)
    return Ending(outcome, str(error))
