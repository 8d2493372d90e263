"""One try with real processes: a migration, one fault, and where the guest runs at the end.

direct   source ── wire ── destination
others   source ── wire ── proxy ── wire ── destination
"""

from __future__ import annotations

import functools
import re
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

import trio

from tests.faults.qemu_parties import WITH_PMU, WITHOUT_PMU, Kind, ManagedProxy, Proxy, Qemu, start
from tests.faults.qemu_wire import FaultWire, Landmark, Strike
from tests.faults.tally import After
from tests.qemu.moving import BANDWIDTH, NO_DOWNTIME, POSTCOPY_BANDWIDTH, passes

STALL_S = 2.5
"""How long something stalls: longer than proxyd's limits as they are set here."""

LIMITS = "hold_idle_time_s = 2.0\nidle_time_s = 2.0\ndrain_time_s = 0.3\n"

SETTLE_S = 20.0
"""Longest wait for a QEMU to come to an end of its migration."""

LATE_S = 0.5
"""A strike behind the last byte may come after a QEMU has closed; so long it is waited for."""

ENDS = frozenset({"completed", "failed", "postcopy-paused"})


class Fault(StrEnum):
    """What happens."""

    NOTHING = "nothing"
    RESET = "network: RST"
    FIN = "network: FIN"
    STALL = "network: stalls, goes on"
    STALL_RESET = "network: stalls, RST"
    SOURCE_GONE = "source: gone with its host"
    """Killed, and nothing that was still under way arrives."""
    SOURCE_KILLED = "source: kill -9"
    SOURCE_TERMINATED = "source: SIGTERM"
    SOURCE_STOPPED = "source: SIGSTOP, SIGCONT"
    SOURCE_STOPPED_KILLED = "source: SIGSTOP, kill -9"
    DESTINATION_GONE = "destination: gone with its host"
    DESTINATION_KILLED = "destination: kill -9"
    DESTINATION_TERMINATED = "destination: SIGTERM"
    DESTINATION_STOPPED = "destination: SIGSTOP, SIGCONT"
    DESTINATION_STOPPED_KILLED = "destination: SIGSTOP, kill -9"
    PROXY_GONE = "proxy: gone with its host"
    PROXY_KILLED = "proxy: kill -9"
    PROXY_TERMINATED = "proxy: SIGTERM"
    PROXY_RELOADED = "proxy: SIGHUP"
    PROXY_STOPPED = "proxy: SIGSTOP, SIGCONT"
    PROXY_STOPPED_KILLED = "proxy: SIGSTOP, kill -9"
    PROXY_CRASHED = "proxy: kill -9, and a service manager that keeps its connections"
    PROXY_RESTARTED = "proxy: systemctl restart"


MANAGED = (Fault.PROXY_CRASHED, Fault.PROXY_RESTARTED)
"""They need a service manager."""

_SIGNALS = {
    "gone with its host": signal.SIGKILL,
    "kill -9": signal.SIGKILL,
    "SIGTERM": signal.SIGTERM,
    "SIGHUP": signal.SIGHUP,
    "SIGSTOP": signal.SIGSTOP,
    "SIGCONT": signal.SIGCONT,
}


class Side(StrEnum):
    """On which wire it strikes."""

    ONLY = ""
    SOURCE = "into the proxy"
    DESTINATION = "out of the proxy"


@dataclass(frozen=True, slots=True)
class Case:
    """One try. With ``two``, another migration goes on at the same time, to which nothing happens by itself."""

    proxy: str
    mode: str
    paused: bool
    fault: Fault
    phase: str
    side: Side
    strike: Strike
    two: bool = False


CAPABILITIES = {"precopy": (), "multifd": ("multifd",), "postcopy": ("postcopy-ram",)}


class Lane:
    """One source, one destination and the wires between them; the proxy is shared."""

    def __init__(self, nursery: trio.Nursery, kind: Kind, wires: tuple[FaultWire, FaultWire], proxy_port: int) -> None:
        self.nursery = nursery
        self.kind = kind
        self.first, self.last = wires
        self.proxy_port = proxy_port
        self.source: Qemu | None = None
        self.destination: Qemu | None = None
        self._acted = trio.Event()
        self.account = ""
        self.on_armed: Callable[[], object] | None = None

    def leave(self) -> None:
        """Kill the QEMUs that are there."""
        for qemu in (self.source, self.destination):
            if qemu is not None:
                qemu.leave()
        self.source = self.destination = None

    async def prepare(self, case: Case) -> None:
        """See that there is a source with a running guest, and a destination that waits."""
        # QEMU alone, and a proxy that only copies, are given a guest whose registers the destination has.
        cpu = WITH_PMU if case.proxy == "proxyd" else WITHOUT_PMU
        capabilities = CAPABILITIES[case.mode]
        self.leave()
        async with trio.open_nursery() as both:
            both.start_soon(self._start_destination, case.paused, capabilities)
            both.start_soon(self._start_source, cpu, capabilities)
        assert self.source is not None
        await self.source.machine.ticks(2)

    async def _start_source(self, cpu: str, capabilities: tuple[str, ...]) -> None:
        self.source = await start(self.nursery, self.kind, cpu, destination=False, capabilities=capabilities)

    async def _start_destination(self, paused: bool, capabilities: tuple[str, ...]) -> None:
        self.destination = await start(
            self.nursery, self.kind, WITHOUT_PMU, destination=True, paused=paused, capabilities=capabilities
        )

    async def perform(self, case: Case, act: Callable[[Lane], Awaitable[None]], *, bystander: bool = False) -> After:
        """Migrate, let *act* happen at the strike, and see what became of the guest."""
        source, destination = self.source, self.destination
        assert source is not None
        assert destination is not None
        port = await destination.machine.incoming()

        self._acted = trio.Event()

        async def strike() -> None:
            await act(self)

        armed = {case.side: (case.strike, strike)} if not bystander else {}
        if case.proxy == "direct":
            self.first.arm(port, *armed.get(Side.ONLY, ()))
        else:
            self.first.arm(self.proxy_port, *armed.get(Side.SOURCE, ()))
            self.last.arm(port, *armed.get(Side.DESTINATION, ()))
        if self.on_armed is not None:
            self.on_armed()
        source.machine.qmp.events.clear()
        await self._migrate(source, case)
        await self._settle(source, destination, case)
        after = await self._judge(source, destination)
        # Never the same source again: under TCG, QEMU 11.1 loses pages of a guest that is migrated once more after a
        # migration that failed in its memory, in one of seven postcopies, without any proxy.
        self.leave()
        return after

    def acted(self) -> None:
        """All of the fault has happened."""
        self._acted.set()

    def struck(self, case: Case) -> bool:
        """Whether the fault has struck."""
        return self.wire(case).struck.is_set()

    def wire(self, case: Case) -> FaultWire:
        """The one on which it strikes."""
        return self.last if case.side is Side.DESTINATION else self.first

    async def _migrate(self, source: Qemu, case: Case) -> None:
        postcopy = case.mode == "postcopy"
        if postcopy:
            limits = {
                "downtime-limit": NO_DOWNTIME,
                "max-bandwidth": BANDWIDTH,
                "max-postcopy-bandwidth": POSTCOPY_BANDWIDTH,
            }
            await source.ask("migrate-set-parameters", **limits)
        await source.ask("migrate", uri=f"tcp:127.0.0.1:{self.first.port}")
        if postcopy and await source.until(lambda: passes(source.machine) >= 2 or self._ended(source), SETTLE_S):
            await source.ask("migrate-start-postcopy")

    @staticmethod
    def _ended(qemu: Qemu) -> bool:
        return bool(ENDS & set(qemu.statuses))

    async def _settle(self, source: Qemu, destination: Qemu, case: Case) -> None:
        """Wait until nothing moves any more, and do what a manager does."""
        await source.until(lambda: self._ended(source), SETTLE_S)
        with trio.move_on_after(LATE_S):
            await self.wire(case).struck.wait()
        if self.struck(case):
            await self._acted.wait()
            await source.until(lambda: self._ended(source), SETTLE_S)
        if not case.paused:
            # What has nothing more to wait for ends now; one that was killed has ended.
            longest = SETTLE_S if "completed" in source.statuses else 3.0
            await destination.until(lambda: self._ended(destination), longest)
            return
        if "postcopy-paused" in source.statuses:
            # The guest has been the destination's since postcopy-active, and nobody ends that one: it is recovered.
            await destination.ask("cont")
            return
        if "completed" not in source.statuses:
            destination.signal(signal.SIGKILL)
            await destination.until(lambda: False, 3.0)
            return
        if await destination.until(lambda: "completed" in destination.statuses, SETTLE_S):
            await destination.ask("cont")

    async def _judge(self, source: Qemu, destination: Qemu) -> After:
        # An end is told before the guest is started or resumed (migration/migration.c: migration_iteration_finish).
        resumes = self._ended(source) and source.statuses[-1] == "failed"
        starts = "completed" in destination.statuses
        here = await source.runs(SETTLE_S if resumes else 0)
        there = await destination.runs(SETTLE_S if starts else 0)
        for qemu, runs in ((source, here), (destination, there)):
            if runs:
                await qemu.goes_on(lines=3, seconds=2.0)
        self.account = "\n".join(
            f"{qemu.machine.name}: {qemu.statuses}, {bytes(qemu.machine.serial[:40])!r} ... "
            f"{bytes(qemu.machine.serial[-120:])!r}"
            for qemu in (source, destination)
        )
        return After(here, there, wrong=not _is_right(source, destination, here=here, there=there))


def _is_right(source: Qemu, destination: Qemu, *, here: bool, there: bool) -> bool:
    """Whether every running guest goes on where it was, with all of its memory as it should be."""
    if here and not _counts_on(bytes(source.machine.serial)):
        return False
    if not there:
        return True
    before = bytes(source.machine.serial)
    if here:
        # Both run: where the source's had been when this one began is not to be seen; only its own lines are.
        before = b""
    return _counts_on(before + bytes(destination.machine.serial))


def _counts_on(console: bytes) -> bool:
    """Whether every whole line says ok, and counts one more than the line before."""
    lines = re.findall(rb"^(\d+) (.*)$", console[: console.rfind(b"\n") + 1], re.MULTILINE)
    numbers = [int(number) for number, _ in lines]
    return all(said == b"ok" for _, said in lines) and numbers == list(
        range(numbers[0] if numbers else 0, (numbers[0] if numbers else 0) + len(numbers))
    )


def action(case: Case, proxy: Proxy) -> Callable[[Lane], Awaitable[None]]:
    """What happens at the strike."""
    who, _, what = case.fault.value.partition(": ")

    async def act(lane: Lane) -> None:
        wire = lane.wire(case)
        then: Callable[[], None] | None = None
        if case.fault is Fault.NOTHING:
            pass
        elif who == "network":
            match case.fault:
                case Fault.RESET:
                    wire.reset()
                case Fault.FIN:
                    await wire.hang_up()
                case _:
                    wire.stall()
                    then = wire.go_on if case.fault is Fault.STALL else wire.reset
        elif case.fault in MANAGED:
            assert isinstance(proxy, ManagedProxy)
            lane.nursery.start_soon(_restart, lane, proxy, case.fault is Fault.PROXY_CRASHED)
            return
        else:
            target = {"source": lane.source, "destination": lane.destination, "proxy": proxy}[who]
            assert target is not None
            first, _, second = what.partition(", ")
            target.signal(_SIGNALS[first])
            if first == "gone with its host":
                for gone in _its_wires(who, case, lane):
                    gone.reset()
            if second:
                then = functools.partial(target.signal, _SIGNALS[second])
        lane.nursery.start_soon(_finish, lane, then)

    return act


def _its_wires(who: str, case: Case, lane: Lane) -> list[FaultWire]:
    if case.proxy == "direct":
        return [lane.first]
    return {"source": [lane.first], "destination": [lane.last], "proxy": [lane.first, lane.last]}[who]


async def _restart(lane: Lane, proxy: ManagedProxy, crash: bool) -> None:
    await proxy.restart(crash=crash)
    lane.acted()


async def _finish(lane: Lane, then: Callable[[], None] | None) -> None:
    if then is not None:
        await trio.sleep(STALL_S)
        then()
    lane.acted()


async def perform(case: Case, lanes: list[Lane], proxy: Proxy) -> list[After] | None:
    """Try it; None if the fault never struck."""
    lanes = lanes[: 2 if case.two else 1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy.ready)
        for lane in lanes:
            nursery.start_soon(lane.prepare, case)
    afters: dict[int, After] = {}

    async def one(number: int) -> None:
        afters[number] = await lanes[number].perform(case, action(case, proxy), bystander=number > 0)

    async with trio.open_nursery() as nursery:
        for number in range(len(lanes)):
            nursery.start_soon(one, number)
    return [afters[number] for number in range(len(lanes))] if lanes[0].struck(case) else None


__all__ = ["Case", "Fault", "Landmark", "Lane", "Side", "Strike", "action", "perform"]
