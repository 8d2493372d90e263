"""What the checker guest says (tests/guest/kvm_checker.c), as typed facts."""

import re
from dataclasses import dataclass

from tests.kvmlab.catalogue import LabError
from tests.kvmlab.feed import Feed, time_limit

TICK = re.compile(r"tick((?: [0-9a-f]{6})+) (clean|changed)")
DIFFERENCE = re.compile(r"(changed|identity) cpu=([0-9a-f]) (\w+) ([0-9a-f]{16}) ([0-9a-f]{16})")

TICK_SECONDS = 30
"""Longest wait for a tick. Ten come in a second; two busy emulated hosts may need ten times as long."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A register of vCPU *vcpu* that is not what it was when the guest started."""

    vcpu: int
    register: str
    was: int
    now: int

    def __str__(self) -> str:
        return f"vCPU {self.vcpu} {self.register} {self.was:#x} -> {self.now:#x}"


@dataclass(frozen=True, slots=True)
class Tick:
    """Timer interrupts that each vCPU has counted, and whether all checks have been clean ever since."""

    counts: tuple[int, ...]
    clean: bool


class Checker:
    """The guest's facts so far. A line cut in two by a migration is passed over: its half came at the other end."""

    resume_ticks = 20
    """How far a guest may have counted when its first tick shows at the destination: two seconds' worth."""

    def __init__(self, lines: Feed[str]) -> None:
        self.lines = lines

    def ticks(self) -> list[Tick]:
        """All ticks so far."""
        return [tick for line in self.lines.items if (tick := _tick(line))]

    def changed(self) -> list[Difference]:
        """Registers whose change the guest calls wrong."""
        return self._differences("changed")

    def identity(self) -> list[Difference]:
        """Identification registers that are not what they were, which the guest only mentions."""
        return self._differences("identity")

    def abilities(self) -> dict[str, str | None]:
        """The checker says nothing of what it can do."""
        return {}

    async def beyond(self, counts: tuple[int, ...]) -> Tick:
        """Wait until every vCPU has counted further than *counts*; raises LabError when one does not."""

        def wanted(line: str) -> bool:
            if line.startswith("fault"):
                raise LabError(f"{self.lines.name}: {line}")
            tick = _tick(line)
            return tick is not None and all(now > then for now, then in zip(tick.counts, counts, strict=True))

        with time_limit(TICK_SECONDS, f"{self.lines.name}: a tick after {counts}"):
            line = await self.lines.first(wanted)
        found = _tick(line)
        if found is None:
            raise AssertionError("only a tick is wanted")
        return found

    async def some_more(self, number: int = 5) -> Tick:
        """Wait for *number* further timer interrupts on every vCPU, and return the tick that shows them."""
        ticks = self.ticks()
        if not ticks:
            with time_limit(TICK_SECONDS, f"{self.lines.name}: a first tick"):
                await self.lines.first(lambda line: _tick(line) is not None)
            ticks = self.ticks()
        return await self.beyond(tuple(count + number for count in ticks[-1].counts))

    def _differences(self, kind: str) -> list[Difference]:
        matches = (DIFFERENCE.fullmatch(line) for line in self.lines.items)
        return [
            Difference(int(match[2], 16), match[3], int(match[4], 16), int(match[5], 16))
            for match in matches
            if match and match[1] == kind
        ]


def _tick(line: str) -> Tick | None:
    match = TICK.fullmatch(line)
    if match is None:
        return None
    return Tick(tuple(int(count, 16) for count in match[1].split()), match[2] == "clean")
