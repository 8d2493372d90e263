"""A stage for session tests: a scripted rewriter, a source and a destination in memory, and everything that was told.

The scripted rewriter reads a toy stream, so that a test reads like the conversation that it plays:

    QEVM...    the prologue, held back; ``/`` ends it
    ...        memory, passed as it comes
    [...]      device state, held back and released as ``<...>``; ``[...rehearse...]`` waits for its rehearsal
    {...}      a postcopy package: the same
    ~          in the prologue: another architecture, everything passes
    ! ?        not a stream; against the rules
    $          something that the firewall tells of, and lets pass
    ^          more than a limit allows; ``&`` something that is not supported; ``#`` a bug
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from formats.errors import FormatError, LimitExceeded, TruncatedStream, UnsupportedStream
from proxyd.endpoint import Address
from proxyd.journal import Journal
from proxyd.metrics import Metrics
from proxyd.relay.channel import DestinationUnreachable
from proxyd.relay.outcome import Ending
from proxyd.relay.session import MigrationSession
from proxyd.relay.surroundings import Surroundings
from proxyd.rewrite.firewall import NO_FIREWALL, Finding, FirewallPolicy, FirewallRule
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Action, Change, Notice, Outcome, Plan, Refusal
from proxyd.rewrite.policy import RewritePolicy, StreamLimits
from proxyd.rewrite.rehearsal import Rehearsal
from proxyd.rewrite.report import RewriteReport
from proxyd.rewrite.rewriter import Phase, RewriteRefused
from proxyd.rewrite.verdict import Verdict
from proxyd.routes import RehearsalService, Route, SessionTimes
from tests.proxyd.relay.legs import MemoryLeg, leg_pair

ANY_PORT = Address("127.0.0.1", 0)
SOMEWHERE = Address("127.0.0.1", 1)
TCR2_EL1 = 0x603000000013C103
SHUT_0 = b"\x00\x01\x00\x04\x00\x00\x00\x00"
SHUT_1 = b"\x00\x01\x00\x04\x00\x00\x00\x01"
PONG_1 = b"\x00\x02\x00\x04\x00\x00\x00\x01"

REMOVED = Change(
    vcpu=0, action=Action.REMOVE, register=TCR2_EL1, field=None, old=0, new=None, verdict=Verdict.PROVEN,
    reason="the guest never had it", rule="builtin", evidence=None, allowed=False,
)  # fmt: skip
PLAN = Plan(outcome=Outcome.LOADS_REWRITTEN, changes=(REMOVED,), refusals=(), notices=(), vcpus=(), rewritten=())
FAITHFUL = Rehearsal((), ("psci",), "7.3.4", 0, 0.25)
REFUSAL = Refusal(
    vcpu=1, register=TCR2_EL1, value=5, destination_value=None, verdict=Verdict.UNKNOWN, reason="nobody knows it"
)


class ScriptedRewriter:
    """A :class:`proxyd.relay.intake.Rewriter` that reads the toy stream."""

    def __init__(self, *, return_path: bool = True) -> None:
        self.phase = Phase.PROLOGUE
        self.bytes_in = 0
        self.return_path = return_path
        self.machine: str | None = "virt-10.0"
        self.passthrough_reason: str | None = None
        self.report: RewriteReport | None = None
        self.sections: Counter[str] = Counter()
        self.waiting_for = "the next act"
        self.planned: Plan | None = None
        self.postcopy_advised = False
        self.switched = False
        self.forced: str | None = None
        self.page_size: int | None = 4096
        self.findings: list[Finding] = []
        self.closed = False
        self._held = b""

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    def feed(self, chunk: bytes) -> list[bytes | memoryview]:
        assert self.phase is not Phase.RELEASED, "fed after its release"
        self.bytes_in += len(chunk)
        out: list[bytes | memoryview] = []
        for word in re.findall(rb"[^][{}/~!?^&#$]+|.", chunk, re.DOTALL):
            self._word(word, out)
        return out

    def release(self, rehearsal: Rehearsal) -> list[bytes | memoryview]:
        assert self.planned is not None
        self.planned = None
        if refusals := rehearsal.refusals():
            raise RewriteRefused(str(refusals[0]), refusals)
        self._release(out := [])
        return out

    def close(self) -> None:
        self.closed = True

    def finish(self) -> list[bytes | memoryview]:
        if self.phase is Phase.OPAQUE:
            return []
        if self._held == b"[whole":
            # A stream that needs its end to be complete.
            self._release(out := [])
            return out
        if self._held == b"[odd":
            raise FormatError("odd end")
        if self._held == b"[open":
            return []
        raise TruncatedStream("the stream ended too early")

    def _word(self, word: bytes, out: list[bytes | memoryview]) -> None:
        match word:
            case b"!":
                raise FormatError("not a stream")
            case b"?":
                raise RewriteRefused("against the rules", (REFUSAL,))
            case b"$":
                self.findings.append(Finding(FirewallRule.SECTION, "a section that is not listed"))
            case b"^":
                raise LimitExceeded("more than the limit")
            case b"&":
                raise UnsupportedStream("postcopy is not supported by this version")
            case b"#":
                raise ZeroDivisionError("a bug")
        self.sections["part"] += len(word)
        if self.phase is Phase.PROLOGUE:
            self._held += word
            if word == b"/":
                self._open(Phase.MEMORY, out)
            elif word == b"~":
                self.passthrough_reason = "another architecture"
                self._open(Phase.OPAQUE, out)
        elif self.phase is Phase.HOLDING:
            self._held += word
            if word in b"]}":
                self._held = self._held[:-1]
                if b"rehearse" in self._held:
                    self.phase, self.planned = Phase.REHEARSING, PLAN
                else:
                    self._release(out)
        elif word in b"[{" and self.phase is Phase.MEMORY:
            self._held = word
            self.switched = word == b"{"
            self.phase = Phase.HOLDING
        else:
            out.append(memoryview(word))

    def _open(self, phase: Phase, out: list[bytes | memoryview]) -> None:
        out.append(self._held)
        self._held = b""
        self.phase = phase

    def _release(self, out: list[bytes | memoryview]) -> None:
        out.append(b"<" + self._held[1:] + b">")
        if b"plain" in self._held:
            self.passthrough_reason = "no destination is described"
        else:
            notice = Notice(vcpu=0, register=TCR2_EL1, text="the destination invents it")
            plan = Plan(
                outcome=Outcome.LOADS_REWRITTEN,
                changes=(REMOVED,),
                refusals=(),
                notices=(notice,),
                vcpus=(),
                rewritten=(),
            )
            self.report = RewriteReport(machine=self.machine, plan=plan)
        self._held = b""
        self.phase = Phase.RELEASED


def a_route(
    *,
    name: str = "lab",
    listen: Address = ANY_PORT,
    destination: Address = SOMEWHERE,
    header_s: float = 30,
    idle_s: float = 300,
    hold_idle_s: float = 10,
    hold_s: float = 60,
    connect_s: float = 10,
    networks: tuple[Any, ...] = (),
    rehearsal: RehearsalService | None = None,
    firewall: FirewallPolicy = NO_FIREWALL,
) -> Route:
    return Route(
        name=name,
        listen=listen,
        destination=destination,
        networks=networks,
        policy=RewritePolicy(destination=None, knowledge=Knowledge.builtin(), firewall=firewall),
        stream_limits=StreamLimits(),
        times=SessionTimes(
            header_s=header_s, idle_s=idle_s, hold_idle_s=hold_idle_s, hold_s=hold_s, connect_s=connect_s
        ),
        rehearsal=rehearsal,
    )


class Told(logging.Handler):
    """Every log line: level, message, fields."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage(), getattr(record, "fields", {})))

    def texts(self) -> list[str]:
        return [message for _, message, _ in self.lines]


def a_journal() -> tuple[Journal, Told]:
    logger = logging.Logger("stage", logging.DEBUG)  # noqa: LOG001 - one of its own, so that tests do not hear each other
    told = Told()
    logger.addHandler(told)
    return Journal(logger), told


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """One sample, as a scrape shows it."""
    found = [
        sample.value
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found)


class ScriptedRehearser:
    """A :class:`proxyd.relay.rehearser.Rehearser` that says what the test wants, when the test wants."""

    def __init__(self) -> None:
        self.warnings: tuple[str, ...] = ()
        self.says: Rehearsal | Exception = FAITHFUL
        self.cannot: Exception | None = None
        self.may_answer = trio.Event()
        self.may_answer.set()
        self.asked = trio.Event()
        self.closed = False

    async def prepare(self) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        if self.cannot is not None:
            raise self.cannot
        return self.warnings

    async def perform(self, plan: Plan) -> Rehearsal:
        assert plan is PLAN
        self.asked.set()
        await self.may_answer.wait()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def close(self) -> None:
        self.closed = True


class Stage:
    """A session between a source and a destination that the test plays."""

    def __init__(self, route: Route, make_rewriter: Callable[[], ScriptedRewriter], capacity: int | None) -> None:
        self.metrics = Metrics()
        journal, self.told = a_journal()
        self.capacity = capacity
        self.source, proxy_end = leg_pair("source:1", "proxyd", capacity)
        proxy_end.peer = "source:1"
        self.proxy_to_source = proxy_end
        self.proxy_to_destination: MemoryLeg | None = None
        self.dialled = trio.Event()
        self.may_connect = trio.Event()
        self.may_connect.set()
        self.unreachable = False
        self.rehearser = ScriptedRehearser()
        self.rewriter = make_rewriter()
        around = Surroundings(
            self.metrics, journal, lambda _route: self.rewriter, self._dial, lambda *_: self.rehearser
        )
        self.session = MigrationSession(proxy_end, route, around)
        self.ending: Ending | None = None
        self.ended = trio.Event()

    async def _dial(self, address: Address, timeout_s: float) -> MemoryLeg:
        self.dialled_with = (address, timeout_s)
        await self.may_connect.wait()
        if self.unreachable:
            raise DestinationUnreachable("nobody is there")
        self._destination, leg = leg_pair("destination:2", "proxyd", self.capacity)
        leg.peer = "destination:2"
        self.proxy_to_destination = leg
        self.dialled.set()
        return leg

    async def destination(self) -> MemoryLeg:
        await self.dialled.wait()
        return self._destination

    async def run(self) -> None:
        self.ending = await self.session.run()
        self.ended.set()

    async def outcome(self) -> str:
        with trio.fail_after(100_000):  # of the mock clock
            await self.ended.wait()
        assert self.ending is not None
        return self.ending.outcome.value

    def sample(self, name: str, **labels: str) -> float:
        return value(self.metrics, name, **labels)


@asynccontextmanager
async def staged(
    route: Route | None = None,
    make_rewriter: Callable[[], ScriptedRewriter] = ScriptedRewriter,
    capacity: int | None = None,
) -> AsyncIterator[Stage]:
    stage = Stage(route or a_route(), make_rewriter, capacity)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        try:
            yield stage
        finally:
            # Nothing else ends a committed session, not even the failure of the test that began it.
            stage.source.abort()
            if stage.dialled.is_set():
                (await stage.destination()).abort()
            nursery.cancel_scope.cancel()


async def reset_seen(leg: MemoryLeg) -> bytes:
    """Read to the RST; returns what came before it."""
    got = b""
    while True:
        try:
            chunk = await leg.receive_some()
        except trio.BrokenResourceError:
            return got
        assert chunk, "FIN where RST was expected"
        got += chunk


async def end_seen(leg: MemoryLeg) -> bytes:
    """Read to the FIN; returns what came before it."""
    got = b""
    while chunk := await leg.receive_some():
        got += chunk
    return got


async def in_memory_phase(stage: Stage) -> MemoryLeg:
    """Both sides are connected and talk; no device state has come."""
    await stage.source.say(b"QEVM/ram")
    destination = await stage.destination()
    assert await destination.receive_exactly(8) == b"QEVM/ram"
    await destination.say(PONG_1)
    assert await stage.source.receive_exactly(8) == PONG_1
    return destination


async def released(stage: Stage) -> MemoryLeg:
    """The commit point is passed."""
    destination = await in_memory_phase(stage)
    await stage.source.say(b"[state]")
    assert await destination.receive_exactly(7) == b"<state>"
    assert stage.session.committed
    return destination
