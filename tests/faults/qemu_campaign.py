"""The real campaign: which faults are tried where, and running them, several at a time, with progress that is kept."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from tests.faults.qemu_parties import PROFILE, Kind, ManagedProxy, Proxy, free_ports
from tests.faults.qemu_try import LIMITS, MANAGED, Case, Fault, Lane, Side, perform
from tests.faults.qemu_wire import FaultWire, Landmark, Measured, Strike
from tests.faults.tally import After, Cell, Tally
from tests.qemu import counting
from tests.qemu.versions import QEMU_10_0, QEMU_11_1, Version

PROXIES = ("direct", "proxyd", "socat", "haproxy")

CONTROLS = 12
"""Migrations to which nothing happens: what a guest's state is then."""

MANAGED_PROXYD = "proxyd, managed"

VERSIONS: dict[str, Version] = {"precopy": QEMU_10_0, "multifd": QEMU_11_1, "postcopy": QEMU_11_1}

COPIERS = ("socat", "haproxy")
CUTS = (Fault.RESET, Fault.FIN)
NETWORK = (Fault.RESET, Fault.FIN, Fault.STALL, Fault.STALL_RESET)
SOURCE = (
    Fault.SOURCE_GONE,
    Fault.SOURCE_KILLED,
    Fault.SOURCE_TERMINATED,
    Fault.SOURCE_STOPPED,
    Fault.SOURCE_STOPPED_KILLED,
)
DESTINATION = (
    Fault.DESTINATION_GONE,
    Fault.DESTINATION_KILLED,
    Fault.DESTINATION_TERMINATED,
    Fault.DESTINATION_STOPPED,
    Fault.DESTINATION_STOPPED_KILLED,
)
PROXY = (
    Fault.PROXY_GONE,
    Fault.PROXY_KILLED,
    Fault.PROXY_TERMINATED,
    Fault.PROXY_STOPPED,
    Fault.PROXY_STOPPED_KILLED,
)
SLOW = frozenset(fault for fault in Fault if "stall" in fault or "STOP" in fault)
"""They take their time, so they are tried at fewer bytes."""

# The smaller selection for modes with several connections, and for two migrations at once.
CHOSEN = (
    Fault.RESET,
    Fault.STALL_RESET,
    Fault.SOURCE_KILLED,
    Fault.DESTINATION_KILLED,
    Fault.PROXY_GONE,
    Fault.PROXY_KILLED,
    Fault.PROXY_TERMINATED,
    Fault.PROXY_RELOADED,
    Fault.PROXY_STOPPED,
    *MANAGED,
)

MEMORY = (4096, 4 << 20)
"""Bytes of stream, when 8 MiB of the guest's RAM are not zero."""

MULTIFD_MEMORY = (250,)
"""The same on the main channel beside multifd, which carries no page."""


@dataclass(frozen=True, slots=True)
class Point:
    """A byte behind which it strikes, and the phase that it is in."""

    phase: str
    strike: Strike


def points(lengths: Measured, *, fine: bool, multifd: bool = False) -> Iterator[Point]:
    """Where it strikes: every border, and bytes in between."""
    yield Point("connected", Strike(Landmark.ACCEPTED))
    yield Point("prologue", Strike(Landmark.STREAM, 10))
    for count in MULTIFD_MEMORY if multifd else MEMORY:
        yield Point("memory", Strike(Landmark.STREAM, count))
    postcopy = lengths.sections == lengths.devices
    inside = "package" if postcopy else "device state"
    for count in _spread(0, lengths.sections - postcopy, 8 if fine else 3):
        yield Point(inside, Strike(Landmark.DEVICES, count))
    if postcopy:
        yield Point("package delivered", Strike(Landmark.DEVICES, lengths.devices + 1))
        yield Point("postcopy", Strike(Landmark.DEVICES, lengths.devices + (1 << 20)))
    else:
        for count in _spread(lengths.sections + 1, lengths.devices - 1, 4 if fine else 2):
            yield Point("vmdesc", Strike(Landmark.DEVICES, count))
    yield Point("all delivered, before SHUT", Strike(Landmark.SHUT, 0))
    yield Point("inside SHUT", Strike(Landmark.SHUT, 4))
    yield Point("after SHUT", Strike(Landmark.SHUT, 8))


def _spread(first: int, last: int, number: int) -> list[int]:
    """*number* counts from *first* to *last*, both of them among these."""
    return sorted({first + (last - first) * i // (number - 1) for i in range(number)})


def sides(proxy: str, fault: Fault, point: Point) -> tuple[Side, ...]:
    """On which wire the bytes are counted."""
    if proxy == "direct":
        return (Side.ONLY,)
    devices = point.strike.landmark is Landmark.DEVICES
    if fault in SOURCE:
        return (Side.SOURCE,)
    if fault in DESTINATION:
        return (Side.SOURCE, Side.DESTINATION) if devices else (Side.DESTINATION,)
    if fault in NETWORK:
        return (Side.SOURCE, Side.DESTINATION)
    return (Side.SOURCE, Side.DESTINATION) if devices or point.strike.landmark is Landmark.SHUT else (Side.SOURCE,)


def faults(proxy: str) -> tuple[Fault, ...]:
    """What can happen to it."""
    if proxy in COPIERS:
        return (*CUTS, *PROXY)
    of_the_proxy = (
        () if proxy == "direct" else (*PROXY, *((Fault.PROXY_RELOADED, *MANAGED) if proxy == "proxyd" else ()))
    )
    return (*NETWORK, *SOURCE, *DESTINATION, *of_the_proxy)


def cases(lengths: dict[str, Measured], proxies: Sequence[str] = PROXIES) -> Iterator[Case]:
    """All of them; those of a proxy that has to be set up anew come together."""
    for mode in VERSIONS:
        for proxy in proxies:
            if mode != "precopy" and proxy == "socat":
                continue  # one connection, as it was started
            for two in (False, True) if mode == "precopy" and proxy == "proxyd" else (False,):
                few = two or mode != "precopy"
                for paused in (False, True):
                    for number in range(CONTROLS if not two else 0):
                        side = sides(proxy, Fault.RESET, Point("", Strike(Landmark.STREAM)))[0]
                        strike = Strike(Landmark.STREAM, 10 + number)
                        yield Case(proxy, mode, paused, Fault.NOTHING, "nothing happens", side, strike)
                    for fault in faults(proxy):
                        if few and fault not in (CUTS if paused else CHOSEN):
                            continue
                        for point in points(
                            lengths[mode],
                            fine=not few and not paused and proxy not in COPIERS and fault not in SLOW,
                            multifd=mode == "multifd",
                        ):
                            for side in sides(proxy, fault, point):
                                yield Case(proxy, mode, paused, fault, point.phase, side, point.strike, two)


def cells(case: Case) -> tuple[Cell, ...]:
    """The rows that the migrations of a try belong to."""
    modes = ("two at once, one struck", "two at once, the other") if case.two else (case.mode,)
    return tuple(
        Cell("qemu", case.proxy, mode, case.paused, case.fault.value, case.phase, case.side.value) for mode in modes
    )


class Station:
    """Wires, lanes and proxies for one try at a time."""

    def __init__(self, nursery: trio.Nursery, guest: Path, directory: Path, wires: Sequence[FaultWire]) -> None:
        self._nursery = nursery
        self._guest = guest
        self._directory = directory
        self._wires = wires
        self._ports = free_ports(len(wires) // 2)
        self._proxies: dict[str, Proxy] = {}
        self._lanes: dict[str, list[Lane]] = {}

    def proxy(self, case: Case) -> Proxy:
        """The proxy that *case* needs; another one ends."""
        name = MANAGED_PROXYD if case.fault in MANAGED else case.proxy
        if name not in self._proxies:
            for other in self._proxies.values():
                other.end()
            lanes = [(port, self._wires[2 * i + 1].port) for i, port in enumerate(self._ports)]
            route = f'profile = "{PROFILE}"\n'
            kind = ManagedProxy if name == MANAGED_PROXYD else Proxy
            self._proxies = {name: kind(name, self._directory, lanes, LIMITS, route)}
        return self._proxies[name]

    def lanes(self, mode: str) -> list[Lane]:
        """Lanes with QEMUs of the mode's version; others end."""
        if mode not in self._lanes:
            self._leave()
            kind = Kind(VERSIONS[mode], self._guest)
            self._lanes = {
                mode: [
                    Lane(self._nursery, kind, (self._wires[2 * i], self._wires[2 * i + 1]), port)
                    for i, port in enumerate(self._ports)
                ]
            }
        return self._lanes[mode]

    async def perform(self, case: Case) -> list[After]:
        """Try it; what does not strike is tried once more."""
        for _ in range(3):
            afters = await perform(case, self.lanes(case.mode), self.proxy(case))
            if afters is not None:
                return afters
        raise AssertionError(f"{case}: the fault never struck")

    async def measure(self, mode: str) -> Measured:
        """How long the device part is, as QEMU sends it to a destination that takes it."""
        (lane, *_) = self.lanes(mode)
        result = lane.first.measure
        case = Case("direct", mode, False, Fault.RESET, "", Side.ONLY, Strike(Landmark.STREAM, 1 << 60))
        found: list[Callable[[], Measured]] = []
        lane.on_armed = lambda: found.append(result())
        await perform(case, [lane], self.proxy(case))
        lane.on_armed = None
        return found[0]()

    def account(self, case: Case) -> str:
        """What the guests of the last try said."""
        return "\n".join(lane.account for lane in self.lanes(case.mode))

    def _leave(self) -> None:
        for lanes in self._lanes.values():
            for lane in lanes:
                lane.leave()

    def end(self) -> None:
        """Kill all that was started."""
        self._leave()
        for proxy in self._proxies.values():
            proxy.end()


@asynccontextmanager
async def station(guest: Path, directory: Path) -> Any:
    """A station with two lanes."""
    directory.mkdir(parents=True, exist_ok=True)
    async with trio.open_nursery() as nursery:
        wires = []
        for _ in range(4):
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            wires.append(FaultWire(listener))
            nursery.start_soon(wires[-1].run)
        one = Station(nursery, guest, directory, wires)
        try:
            yield one
        finally:
            one.end()
            nursery.cancel_scope.cancel()


async def lengths_of_all(guest: Path, directory: Path) -> dict[str, Measured]:
    """Measure each mode's device part."""
    async with station(guest, directory / "measure") as one:
        # multifd's is that of precopy: the parser is asked about one connection only.
        return {
            "precopy": await one.measure("precopy"),
            "multifd": await one.measure("precopy"),
            "postcopy": await one.measure("postcopy"),
        }


def run(
    kept: Path,
    workers: int,
    proxies: Sequence[str] = PROXIES,
    progress: Callable[[str], None] = print,
    only: Callable[[Case], bool] = lambda _: True,
) -> tuple[Tally, int]:
    """Try all that *kept* (one line a try) does not hold yet; returns everything, and how many did not come about."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        directory = Path(name)
        guest = counting.build("patterns", directory)
        failed = trio.run(_run, kept, workers, proxies, progress, only, guest, directory)
    return counted(kept), failed


def counted(kept: Path) -> Tally:
    """What *kept* holds."""
    tally = Tally()
    for line in kept.read_text().splitlines():
        entry = json.loads(line)
        tally.add(Cell(**entry["cell"]), After(**entry["after"]))
    return tally


async def _run(
    kept: Path,
    workers: int,
    proxies: Sequence[str],
    progress: Callable[[str], None],
    only: Callable[[Case], bool],
    guest: Path,
    directory: Path,
) -> int:
    lengths = await lengths_of_all(guest, directory)
    kept.touch()
    done = {json.loads(line)["case"] for line in kept.read_text().splitlines()}
    todo = [case for case in cases(lengths, proxies) if only(case) and name_of(case) not in done]
    share = -(-len(todo) // workers)
    count = failed = 0

    async def work(number: int, mine: Sequence[Case]) -> None:
        nonlocal count, failed
        async with station(guest, directory / str(number)) as one:
            for case in mine:
                try:
                    afters = await one.perform(case)
                except AssertionError as error:
                    failed += 1
                    progress(f"failed: {error}")
                    one.end()
                    continue
                count += 1
                if any(after.wrong or not (after.source or after.destination) for after in afters):
                    progress(f"lost or wrong: {case}\n{one.account(case)}")
                with kept.open("a") as file:
                    for cell, after in zip(cells(case), afters, strict=True):
                        entry = {"case": name_of(case), "cell": asdict(cell), "after": asdict(after)}
                        file.write(json.dumps(entry) + "\n")
                if count % 50 == 0:
                    progress(f"{count} of {len(todo)}")

    async with trio.open_nursery() as nursery:
        for number in range(workers):
            nursery.start_soon(work, number, todo[number * share : (number + 1) * share])
    return failed


def name_of(case: Case) -> str:
    """What a try is kept under."""
    entry = asdict(case)
    entry["strike"] = f"{case.strike.landmark} + {case.strike.count}"
    return json.dumps(entry)
