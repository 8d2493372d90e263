"""What the Linux guest says (tests/guest/linux_worker.c), as typed facts."""

import re
from dataclasses import dataclass

from tests.kvmlab.catalogue import LabError
from tests.kvmlab.feed import Feed, time_limit

TICK = re.compile(r"tick((?: [a-z]+[0-9]*=[0-9]+)+) (clean|changed)")
CHANGE = re.compile(r"(changed|identity) (.+?): (.*) -> (.*)")
ABILITY = re.compile(r"(has|lacks) (\S+?)(?:: (.*))?")
END = re.compile(r"(?:\[ *[0-9.]+\] )?(?:Kernel panic|Internal error|Unable to handle).*")

FIRST_TICK_SECONDS = 240
"""Longest wait for Linux to boot: 10 seconds where nothing else runs."""

TICK_SECONDS = 180
"""Longest wait for some rounds of work after that. On a busy machine taking a vCPU offline and online takes ten."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is not what it was when the guest started, in the guest's words."""

    what: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.what} {self.was} -> {self.now}"


@dataclass(frozen=True, slots=True)
class LinuxTick:
    """Rounds of work that each worker has done, and whether all checks have been clean ever since."""

    rounds: tuple[tuple[str, int], ...]
    clean: bool

    @property
    def counts(self) -> tuple[int, ...]:
        """The rounds without the workers' names."""
        return tuple(number for _, number in self.rounds)


class LinuxFacts:
    """The guest's facts so far. A line cut in two by a migration is passed over: its half came at the other end."""

    resume_ticks = 200
    """As `Checker.resume_ticks`. The slowest worker's next round shows it, which may be that of an offline vCPU."""

    def __init__(self, lines: Feed[str]) -> None:
        self.lines = lines

    def ticks(self) -> list[LinuxTick]:
        """All ticks so far."""
        return [tick for line in self.lines.items if (tick := _tick(line))]

    def changed(self) -> list[Change]:
        """What the guest calls wrong."""
        return self._changes("changed")

    def identity(self) -> list[Change]:
        """What Linux tells of its CPUs and has changed, which the guest only mentions."""
        return self._changes("identity")

    def abilities(self) -> dict[str, str | None]:
        """What this guest can do -> None, or why it cannot."""
        matches = (ABILITY.fullmatch(line) for line in self.lines.items)
        return {match[2]: None if match[1] == "has" else match[3] for match in matches if match}

    async def beyond(self, counts: tuple[int, ...]) -> LinuxTick:
        """Wait until every worker has done more rounds than *counts*; raises LabError when one does not."""

        def wanted(line: str) -> bool:
            if END.fullmatch(line):
                raise LabError(f"{self.lines.name}: {line}")
            tick = _tick(line)
            return tick is not None and all(now > then for now, then in zip(tick.counts, counts, strict=True))

        with time_limit(TICK_SECONDS, f"{self.lines.name}: a tick after {counts}"):
            line = await self.lines.first(wanted)
        found = _tick(line)
        if found is None:
            raise AssertionError("only a tick is wanted")
        return found

    async def some_more(self, number: int = 5) -> LinuxTick:
        """Wait for *number* further rounds of every worker, and return the tick that shows them."""
        ticks = self.ticks()
        if not ticks:
            with time_limit(FIRST_TICK_SECONDS, f"{self.lines.name}: a first tick"):
                await self.lines.first(lambda line: END.fullmatch(line) is not None or _tick(line) is not None)
            ticks = self.ticks()
        return await self.beyond(tuple(count + number for count in ticks[-1].counts) if ticks else ())

    def _changes(self, kind: str) -> list[Change]:
        matches = (CHANGE.fullmatch(line) for line in self.lines.items)
        return [Change(match[2], match[3], match[4]) for match in matches if match and match[1] == kind]


def _tick(line: str) -> LinuxTick | None:
    match = TICK.fullmatch(line)
    if match is None:
        return None
    pairs = (word.split("=") for word in match[1].split())
    return LinuxTick(tuple((name, int(number)) for name, number in pairs), match[2] == "clean")
