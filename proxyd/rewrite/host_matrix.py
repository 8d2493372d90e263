"""Every host with every other: what becomes of guests that move between them.

For each ordered pair a plan is made for a guest that has just been started on the source, with all features of its host
or with those that are asked for. Why a guest is refused or changed is kept once, with a number, however many pairs it
concerns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from proxyd.rewrite.guest_features import guest_features, host_features, left_out, meet
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.host_diff import plan_for_new_guest, why_refused
from proxyd.rewrite.host_traits import Crossing, Severity, Way, traits_on_the_way
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Action, Outcome, Plan
from proxyd.rewrite.unaided import Foreseen
from proxyd.rewrite.verdict import Verdict


class CellOutcome(StrEnum):
    """What becomes of a guest on one way. The first three are a plan's."""

    LOADS_AS_IS = "loads-as-is"
    LOADS_REWRITTEN = "loads-rewritten"
    REFUSED = "refused"
    BREAKS = "breaks"  # it loads and goes wrong, whatever is done to the stream
    NO_GUEST = "no-guest"  # the source cannot start such a guest


class Effect(StrEnum):
    """What a reason does."""

    REFUSED = "refused"
    REMOVED = "removed"
    CHANGED = "changed"
    ADDED = "added"
    BREAKS = "breaks"
    CARE = "care"
    NO_GUEST = "no guest"


_EFFECTS: Final = {Action.REMOVE: Effect.REMOVED, Action.SET: Effect.CHANGED, Action.ADD: Effect.ADDED}
_DECISIVE: Final = {
    CellOutcome.LOADS_AS_IS: frozenset[Effect](),
    CellOutcome.LOADS_REWRITTEN: frozenset({Effect.REMOVED, Effect.CHANGED, Effect.ADDED}),
    CellOutcome.REFUSED: frozenset({Effect.REFUSED}),
    CellOutcome.BREAKS: frozenset({Effect.BREAKS}),
    CellOutcome.NO_GUEST: frozenset({Effect.NO_GUEST}),
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence and everything that it concerns; ``number`` counts from 1. ``registers`` are those of all pairs."""

    number: int
    effect: Effect
    verdict: Verdict | None
    text: str
    registers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One ordered pair; ``source`` and ``destination`` are places in the list of hosts.

    ``features`` are the guest's. ``worst`` is the worst verdict of what is done, or
    refused. ``register`` and ``field`` are the first that are refused. ``reasons`` are numbers, ascending; ``decisive``
    those that make the outcome what it is. ``unaided`` is what would become of the guest without proxyd, where there is
    a plan.
    """

    source: int
    destination: int
    features: tuple[str, ...]
    outcome: CellOutcome
    worst: Verdict | None
    register: int | None
    field: str | None
    reasons: tuple[int, ...]
    decisive: tuple[int, ...]
    unaided: Foreseen | None = None


@dataclass(frozen=True, slots=True)
class HostMatrix:
    """``cells`` by source, then by destination."""

    hosts: tuple[HostDescription, ...]
    cells: tuple[Cell, ...]
    reasons: tuple[Reason, ...]

    @property
    def all_load(self) -> bool:
        """Whether every guest that can be started loads everywhere, and goes on well."""
        return not any(cell.outcome in {CellOutcome.REFUSED, CellOutcome.BREAKS} for cell in self.cells)

    def cell(self, source: int, destination: int) -> Cell:
        """One of them."""
        return self.cells[source * len(self.hosts) + destination]


def make_matrix(
    hosts: Sequence[HostDescription],
    knowledge: Knowledge,
    *,
    features: Collection[str] | None = None,
    without: Collection[str] = (),
    allow: frozenset[int] = frozenset(),
) -> HostMatrix:
    """Plan for all pairs, a host with itself included.

    :param features: of the guests; None for all that the guest's host has.
    :param without: features that the guests do without.
    """
    reasons = _Reasons()
    planner = _Planner(knowledge, allow, reasons)
    cells = tuple(
        planner.cell(source, destination, hosts, guest_features(hosts[source], features, without))
        for source in range(len(hosts))
        for destination in range(len(hosts))
    )
    return HostMatrix(tuple(hosts), cells, tuple(reasons.found.values()))


@dataclass(frozen=True, slots=True)
class _Why:
    """A reason before it has a number."""

    effect: Effect
    verdict: Verdict | None
    text: str
    register: int | None = None


@dataclass
class _Reasons:
    """Each reason once."""

    found: dict[tuple[Effect, Verdict | None, str], Reason] = field(default_factory=dict)

    def number(self, why: _Why) -> int:
        key = (why.effect, why.verdict, why.text)
        known = self.found.get(key) or Reason(len(self.found) + 1, *key, ())
        if why.register is not None and why.register not in known.registers:
            known = replace(known, registers=(*known.registers, why.register))
        self.found[key] = known
        return known.number


@dataclass(frozen=True)
class _Planner:
    knowledge: Knowledge
    allow: frozenset[int]
    reasons: _Reasons

    def cell(self, source: int, destination: int, hosts: Sequence[HostDescription], features: tuple[str, ...]) -> Cell:
        here, there = hosts[source], hosts[destination]
        absent = [one for one in features if one not in host_features(here)]
        if absent:
            text = f"the source has no {' and no '.join(absent)}: such a guest cannot be started there"
            whys = [_Why(Effect.NO_GUEST, None, text)]
            return self._cell(source, destination, features, CellOutcome.NO_GUEST, None, whys)
        meeting = meet(here, there, self.knowledge, features)
        whys = list(_from_traits(Crossing(Way.A_TO_B, meeting.source, there, "the source", "the destination")))
        if meeting.surplus:
            options = left_out(meeting.surplus)
            text = f"the destination has more than such guests: QEMU there must be started with {options}"
            whys.append(_Why(Effect.CARE, None, text))
        if meeting.lacking:
            lacking = meeting.lacking
            reasons = [(there.missing_features or {}).get(one, "its description was made without") for one in lacking]
            text = f"the destination has no {' and no '.join(lacking)} ({'; '.join(dict.fromkeys(reasons))})"
            whys.insert(0, _Why(Effect.REFUSED, None, text))
            return self._cell(source, destination, features, CellOutcome.REFUSED, None, whys)
        plan = plan_for_new_guest(meeting, self.knowledge, self.allow)
        outcome = CellOutcome(plan.outcome.value)
        if plan.outcome is not Outcome.REFUSED and any(why.effect is Effect.BREAKS for why in whys):
            outcome = CellOutcome.BREAKS
        return self._cell(source, destination, features, outcome, plan, [*_from_plan(plan), *whys])

    def _cell(
        self,
        source: int,
        destination: int,
        features: tuple[str, ...],
        outcome: CellOutcome,
        plan: Plan | None,
        whys: Sequence[_Why],
    ) -> Cell:
        numbers = [self.reasons.number(why) for why in whys]
        decisive = {number for number, why in zip(numbers, whys, strict=True) if why.effect in _DECISIVE[outcome]}
        refusals = () if plan is None else plan.refusals
        worst = max((one.verdict for one in refusals), default=None if plan is None else plan.worst)
        return Cell(
            source,
            destination,
            features,
            outcome,
            worst,
            refusals[0].register if refusals else None,
            refusals[0].field if refusals else None,
            tuple(sorted(set(numbers))),
            tuple(sorted(decisive)),
            None if plan is None or plan.unaided is None else plan.unaided.foreseen,
        )


def _from_plan(plan: Plan) -> Iterator[_Why]:
    for refusal in plan.refusals:
        yield _Why(Effect.REFUSED, refusal.verdict, why_refused(refusal), refusal.register)
    if plan.outcome is not Outcome.REFUSED:
        for change in plan.changes:
            yield _Why(_EFFECTS[change.action], change.verdict, change.reason, change.register)


def _from_traits(crossing: Crossing) -> Iterator[_Why]:
    """What differs besides the registers; features are judged by the meeting."""
    for statement in traits_on_the_way(crossing):
        if statement.subject != "features":
            effect = Effect.BREAKS if statement.severity is Severity.BREAKS else Effect.CARE
            yield _Why(effect, None, statement.text)
