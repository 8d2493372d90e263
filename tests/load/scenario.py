"""What a scenario is, and what is asked of every one: good migrations, memory, an operator who gets his answers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any

import trio

from tests.load.crowd import Standing
from tests.load.daemon import Daemon
from tests.load.peers import Destination, migrate
from tests.load.streams import arriving
from tests.load.watch import Watcher

MIB = 1 << 20

# The operator's patience: status and scrape. A machine that is shared with other work has bad moments.
LOOK_S = 5.0

# A scrape_timeout is 10 s and a guest's clients bear about as much: nothing may wait for the loop for longer.
TURN_S = 2.0


@dataclass(frozen=True)
class Scale:
    """How much of it. ``whole`` is what the campaign plays; CI plays less, with shorter limits."""

    migrations: int
    crowd: int
    goods: int
    loris: int
    endless: int
    header_s: float
    hold_s: float
    device_state: int


WHOLE = Scale(200, 10_000, 100, 100, 24, 30.0, 60.0, 64 << 20)
SMALL = Scale(200, 2_500, 20, 12, 6, 1.5, 2.5, 4 << 20)


@dataclass
class Result:
    """What a scenario has shown. ``broken`` says which bounds were not kept; empty is good."""

    name: str
    says: str
    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def bound(self, what: str, found: float, most: float, why: str) -> None:
        """Record a figure that must not be above ``most``."""
        self.figures[what] = round(found, 4)
        if found > most:
            self.broken.append(f"{what}: at most {most:g} expected ({why}), found {found:g}")

    def expect(self, true: bool, what: str) -> None:
        """Something that has to hold."""
        if not true:
            self.broken.append(what)

    def seen(self, watcher: Watcher, *, memory: int, why: str) -> None:
        """What the watcher saw; ``memory``: bytes by which the daemon may have grown."""
        seen = watcher.seen
        assert seen is not None, "the watch has not ended"
        self.figures |= asdict(seen) | {"failures": len(seen.failures)}
        grown = seen.resident_peak - seen.resident_before
        self.bound("grown_mib", grown / MIB, memory / MIB, why)
        self.bound("status_longest_s", seen.status_longest_s, LOOK_S, "an operator waits for his answer")
        self.bound("scrape_longest_s", seen.scrape_longest_s, LOOK_S, "a scrape times out after 10 s")
        self.expect(not seen.failures, f"status and scrape were answered each time: {seen.failures[:3]}")

    def turned(self, turns: dict[str, Any], most: float = TURN_S) -> None:
        """What the instrument saw."""
        self.bound("longest_turn_s", turns["longest_turn_s"], most, "whoever is ready waits for the loop's turn")

    def crowd(self, crowd: Standing) -> None:
        """What became of a crowd."""
        came = crowd.came
        assert came is not None, "the crowd has not gone"
        self.figures |= {"opened": came.opened, "turned_away": came.turned_away}

    async def migrations(
        self, daemon: Daemon, destination: Destination, count: int, *, at_once: int = 2, address: str = "127.0.0.9"
    ) -> None:
        """Good migrations, which must all arrive."""
        before, began = destination.arrived, time.monotonic()
        times: list[float] = []
        streams = cycle(arriving())
        todo = [next(streams) for _ in range(count)]

        async def some() -> None:
            while todo:
                stream = todo.pop()
                try:
                    times.append(await migrate(daemon.ports["lab"], stream, address))
                except (AssertionError, OSError, trio.TooSlowError) as error:
                    self.broken.append(f"a good migration failed: {error!r}")

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(some)
        self.figures |= {
            "migrations": count,
            "migrations_s": round(time.monotonic() - began, 3),
            "migration_longest_s": round(max(times, default=0.0), 3),
        }
        self.expect(destination.arrived - before == count, f"{count} expected, {destination.arrived - before} arrived")
        self.expect(not destination.wrong, f"bytes as they must be: {destination.wrong[:3]}")


Scenario = Callable[[Scale], Awaitable[Result]]
