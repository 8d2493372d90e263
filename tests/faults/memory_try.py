"""One try in memory: a migration, one fault, and where the guest runs at the end.

direct   source ── wire ── destination
pipe     source ── wire ── two copying loops ── wire ── destination      what any proxy does that only copies
proxyd   source ── wire ── MigrationSession  ── wire ── destination      the real session, relay and rewriter
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import trio
from trio.testing import MockClock

from proxyd.endpoint import Dialled
from proxyd.journal import Journal
from proxyd.metrics import Metrics
from proxyd.relay.channel import GONE, Leg
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.session import MigrationSession, Surroundings
from proxyd.rewrite.rewriter import StreamRewriter
from tests.faults.memory_peers import Destination, Source
from tests.faults.memory_stream import Sent, fitting, policy, sent
from tests.faults.memory_wire import Strike, Wire
from tests.faults.tally import After
from tests.proxyd.relay.legs import MemoryLeg
from tests.proxyd.relay.stage import a_route

HOUR = 3600.0
"""How long a stall lasts, in seconds of the mock clock: longer than any limit of proxyd's."""

NEVER_ENDS = 100 * HOUR


class Fault(StrEnum):
    """What happens. *Gone with its host*: nothing that was under way arrives."""

    RESET = "network: RST"
    FIN = "network: FIN"
    STALL = "network: stalls for an hour, goes on"
    STALL_RESET = "network: stalls for an hour, RST"
    SOURCE_GONE = "source: gone with its host"
    DESTINATION_GONE = "destination: gone with its host"
    DESTINATION_STOPPED = "destination: SIGSTOP, SIGCONT after an hour"
    DESTINATION_STOPPED_GONE = "destination: SIGSTOP, gone with its host after an hour"
    PROXY_GONE = "proxy: gone with its host"
    PROXY_KILLED = "proxy: kill -9"
    PROXY_ABORTED = "proxy: aborted by an operator, or its patience at a drain is over"
    PROXY_CANCELLED = "proxy: cancelled as a whole"


ON_THE_NETWORK = (Fault.RESET, Fault.FIN, Fault.STALL, Fault.STALL_RESET)
STOPPED = (Fault.DESTINATION_STOPPED, Fault.DESTINATION_STOPPED_GONE)
OF_THE_PEERS = (Fault.SOURCE_GONE, Fault.DESTINATION_GONE, *STOPPED)
OF_ANY_PROXY = (Fault.PROXY_GONE, Fault.PROXY_KILLED)
OF_PROXYD = (Fault.PROXY_ABORTED, Fault.PROXY_CANCELLED)


class Place(StrEnum):
    """On which connection the bytes are counted, and a network breaks."""

    ONLY = ""
    SOURCE_SIDE = "into the proxy"
    DESTINATION_SIDE = "out of the proxy"


@dataclass(frozen=True, slots=True)
class Case:
    """One try."""

    proxy: str
    fault: Fault
    place: Place
    strike: Strike


@cache
def _journal() -> Journal:
    logger = logging.Logger("faults", logging.CRITICAL + 1)  # noqa: LOG001 - nobody reads a million lines
    return Journal(logger)


@cache
def _metrics() -> Metrics:
    return Metrics()


class Scene:
    """The parties of one try."""

    def __init__(self, case: Case, wire: Sent) -> None:
        self.case = case
        direct = case.proxy == "direct"
        self.first = Wire(case.strike if case.place is not Place.DESTINATION_SIDE else None)
        self.last = self.first if direct else Wire(case.strike if case.place is Place.DESTINATION_SIDE else None)
        self.struck_wire = self.last if case.place is Place.DESTINATION_SIDE else self.first
        self.struck_wire.on_strike = self._strike
        self.source = Source(self.first.near, wire)
        self.destination = Destination(fitting())
        self.nursery: trio.Nursery
        self.proxy_scope = trio.CancelScope()
        self._session: MigrationSession | None = None

    async def run(self) -> None:
        with trio.move_on_after(NEVER_ENDS):
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                nursery.start_soon(self.first.run)
                nursery.start_soon(self.source.run)
                match self.case.proxy:
                    case "direct":
                        nursery.start_soon(self.destination.run, self.first.far)
                    case "pipe":
                        self._connect()
                        nursery.start_soon(self._copy, self.first.far, self.last.near)
                        nursery.start_soon(self._copy, self.last.near, self.first.far)
                    case _:
                        nursery.start_soon(self._proxyd)

    def _connect(self) -> None:
        self.nursery.start_soon(self.last.run)
        self.nursery.start_soon(self.destination.run, self.last.far)

    async def _copy(self, giver: MemoryLeg, taker: MemoryLeg) -> None:
        try:
            while chunk := await giver.receive_some():
                await taker.send_buffers((chunk,))
            await taker.send_eof()
        except GONE:
            giver.abort()
            taker.abort()

    async def _proxyd(self) -> None:
        around = Surroundings(_metrics(), _journal(), lambda _: StreamRewriter(policy()), self._dial)
        self._session = MigrationSession(self.first.far, dataclasses.replace(a_route(), policy=policy()), around)
        with self.proxy_scope:
            await self._session.run()

    async def _dial(self, destination: Dialled, timeout_s: float) -> Leg:
        await trio.lowlevel.checkpoint()
        self._connect()
        return self.last.near

    # The fault.

    def _strike(self) -> None:
        self.nursery.start_soon(self._end_stall, self._begin())

    async def _end_stall(self, end: Callable[[], None] | None) -> None:
        if end is not None:
            await trio.sleep(HOUR)
            end()

    def _begin(self) -> Callable[[], None] | None:
        """Do it; returns how it ends in an hour."""
        wire = self.struck_wire
        match self.case.fault:
            case Fault.RESET:
                wire.reset()
            case Fault.FIN:
                wire.hang_up()
            case Fault.STALL | Fault.STALL_RESET:
                wire.stall()
                return wire.go_on if self.case.fault is Fault.STALL else wire.reset
            case Fault.SOURCE_GONE:
                self.first.reset()
                self.source.kill()
            case Fault.DESTINATION_GONE:
                self.last.reset()
                self.destination.kill()
            case Fault.DESTINATION_STOPPED:
                self.destination.goes_on = trio.Event()
                return self.destination.goes_on.set
            case Fault.DESTINATION_STOPPED_GONE:
                self.destination.goes_on = trio.Event()
                return self._kill_destination
            case Fault.PROXY_GONE:
                self.first.reset()
                self.last.reset()
            case Fault.PROXY_KILLED:  # what it has sent is delivered
                self.first.far.close()
                self.last.near.close()
            case Fault.PROXY_ABORTED if self._session is not None:
                self._session.abandon(Ending(Outcome.DRAINED, "enough"))
            case Fault.PROXY_ABORTED:  # what a proxy does that knows no commit point
                self.first.reset()
                self.last.reset()
            case Fault.PROXY_CANCELLED:
                self.proxy_scope.cancel()
        return None

    def _kill_destination(self) -> None:
        self.last.reset()
        self.destination.kill()


@dataclass(frozen=True, slots=True)
class Tried:
    """The end of a try: where the guest runs, for a destination started without -S and with it."""

    struck: bool
    without_s: After
    with_s: After


def perform(case: Case, wire: Sent | None = None) -> Tried:
    """Try it, with another stream if one is given."""
    wire = wire or (sent() if case.proxy == "proxyd" else fitting())
    scene: Scene | None = None

    async def play() -> None:
        nonlocal scene
        scene = Scene(case, wire)
        await scene.run()

    trio.run(play, clock=MockClock(autojump_threshold=0))
    assert scene is not None
    loaded = scene.destination.loaded
    wrong = loaded and scene.destination.wrong
    started = loaded and scene.source.status == "completed"
    return Tried(
        scene.struck_wire.struck,
        After(scene.source.runs, loaded, wrong),
        After(scene.source.runs, started, wrong),
    )
