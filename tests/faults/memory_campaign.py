"""Every fault at every byte, in memory: the cases, and running them.

Bytes are counted where the fault is: those of the source and of its network on the source's side, those of the
destination on its own. A fault of the proxy is tried on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context

from tests.faults.memory_stream import Sent, fitting, sent
from tests.faults.memory_try import (
    OF_ANY_PROXY,
    OF_PROXYD,
    OF_THE_PEERS,
    ON_THE_NETWORK,
    STOPPED,
    Case,
    Fault,
    Place,
    perform,
)
from tests.faults.memory_wire import Strike
from tests.faults.tally import After, Cell, Tally

PROXIES = ("direct", "pipe", "proxyd")

# On the return path: PONG(1), then SHUT, 8 bytes each.
BEFORE_SHUT, AFTER_SHUT = 8, 16


def stream(proxy: str, place: Place) -> Sent:
    """What passes there."""
    return sent() if proxy == "proxyd" and place is Place.SOURCE_SIDE else fitting()


def faults(proxy: str) -> tuple[Fault, ...]:
    """What can happen to it."""
    return (
        *ON_THE_NETWORK,
        *OF_THE_PEERS,
        *(OF_ANY_PROXY if proxy != "direct" else ()),
        *(OF_PROXYD if proxy == "proxyd" else ()),
    )


def places(proxy: str, fault: Fault, *, forward: bool) -> tuple[Place, ...]:
    """Where it is counted when."""
    if fault in STOPPED and not forward:
        return ()  # its answer is on its way
    if proxy == "direct":
        return (Place.ONLY,)
    if fault is Fault.SOURCE_GONE:
        return (Place.SOURCE_SIDE,)
    if fault in OF_THE_PEERS and not forward:
        return (Place.DESTINATION_SIDE,)  # by the time that the source has an answer, it has died after it
    if fault is Fault.PROXY_KILLED:
        # What it had sent is all there is, so what counts is how much it had taken.
        return (Place.SOURCE_SIDE,) if forward else (Place.DESTINATION_SIDE,)
    return (Place.SOURCE_SIDE, Place.DESTINATION_SIDE)


def strikes(passing: Sent, stride: int) -> Iterator[Strike]:
    """Behind which bytes: every *stride*-th of the stream, the borders of its parts, and every byte of a SHUT."""
    borders = (0, passing.memory_at, passing.tail_at, passing.vmdesc_at, len(passing.wire))
    near = {border + i for border in borders for i in (-1, 0, 1)}
    for count in range(len(passing.wire)):
        if count in near or count % stride == 0:
            yield Strike(count, forward=True)
    for count in range(BEFORE_SHUT, AFTER_SHUT + 1):
        yield Strike(count, forward=False)


def phase(passing: Sent, strike: Strike) -> str:
    """What the fault interrupts."""
    if strike.forward:
        return passing.phase(strike.count)
    if strike.count == BEFORE_SHUT:
        return "all delivered, before SHUT"
    return "inside SHUT" if strike.count < AFTER_SHUT else "after SHUT"


def cases(stride: int = 1, proxies: Sequence[str] = PROXIES) -> Iterator[Case]:
    """All of them."""
    for proxy in proxies:
        for fault in faults(proxy):
            for place in Place:
                for strike in strikes(stream(proxy, place), stride):
                    if place in places(proxy, fault, forward=strike.forward):
                        yield Case(proxy, fault, place, strike)


def run(
    stride: int = 1,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
    proxies: Sequence[str] = PROXIES,
) -> Tally:
    """Try them all."""
    tally = Tally()
    everything = list(cases(stride, proxies))
    # spawn: a forked copy of a process with trio in it is nobody's friend.
    with get_context("spawn").Pool(processes) as pool:
        for done, (case, without_s, with_s) in enumerate(pool.imap(_one, everything, chunksize=256), 1):
            for cell, after in zip(cells(case), (without_s, with_s), strict=True):
                tally.add(cell, after)
            if progress is not None and done % 1000 == 0:
                progress(done, len(everything))
    return tally


def _one(case: Case) -> tuple[Case, After, After]:
    tried = perform(case)
    if not tried.struck:
        raise AssertionError(f"{case}: the fault never struck")
    return case, tried.without_s, tried.with_s


def cells(case: Case) -> tuple[Cell, Cell]:
    """The rows that a try belongs to: without -S, and with it."""
    where = phase(stream(case.proxy, case.place), case.strike)
    both = [
        Cell("memory", case.proxy, "precopy", paused, case.fault.value, where, case.place.value)
        for paused in (False, True)
    ]
    return both[0], both[1]
