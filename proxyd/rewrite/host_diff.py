"""What the difference between two hosts means for guests, in sentences, in both directions.

For each way a plan is made for a guest that has just been started on the one host, with the features that it would have
there, as it goes to the other. What no register list has is in :mod:`.host_traits`. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from formats.arm64.register_id import name_of
from proxyd.rewrite.guest_features import Meeting, meet
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.host_traits import Crossing, Severity, Statement, Way, traits
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Action, Change, Destination, Notice, Outcome, Plan, Refusal, VcpuRegisters, make_plan
from proxyd.rewrite.unaided import Foreseen, Unaided

T = TypeVar("T", Change, Refusal, Notice)

REGISTERS: Final = "registers"

_PAST: Final = {Action.REMOVE: "removed", Action.SET: "changed", Action.ADD: "added"}
_WOULD: Final = {action: f"would be {past}" for action, past in _PAST.items()}
UNAIDED: Final = {
    Foreseen.LOADS: "without proxyd they would load, and nothing would be lost",
    Foreseen.CHANGES: "without proxyd they would load, and be changed without an error",
    Foreseen.FAILS: "without proxyd their load would fail",
    Foreseen.UNKNOWN: "without proxyd nobody can say what would happen",
}

_NAMED: Final = 6  # registers that a sentence names before it only counts


@dataclass(frozen=True, slots=True)
class HostDifference:
    """``statements`` in the order of reading: A to B, B to A, then what holds for both."""

    statements: tuple[Statement, ...]

    def of(self, way: Way) -> tuple[Statement, ...]:
        """Those about one way."""
        return tuple(one for one in self.statements if one.way is way)


def compare_hosts(a: HostDescription, b: HostDescription, knowledge: Knowledge) -> HostDifference:
    """Say it."""
    statements = [
        statement
        for crossing in (Crossing(Way.A_TO_B, a, b, "A", "B"), Crossing(Way.B_TO_A, b, a, "B", "A"))
        for statement in _registers(crossing, knowledge)
    ]
    statements += traits(a, b)
    order = list(Way)
    return HostDifference(tuple(sorted(statements, key=lambda one: order.index(one.way))))


def plan_for_new_guest(meeting: Meeting, knowledge: Knowledge, allow: frozenset[int] = frozenset()) -> Plan:
    """The plan for a guest of one vCPU that has just been started."""
    vcpu = VcpuRegisters(0, meeting.source.registers)
    return make_plan([vcpu], Destination(host=meeting.destination), knowledge, allow)


def why_refused(refusal: Refusal) -> str:
    """A refusal's reason without the register's name in it, so that it can be said of several."""
    reason, hint, _ = refusal.reason.partition(" (allow = [")
    return f"{reason} (accepted if allowed by name)" if hint else reason


def unaided_text(unaided: Unaided) -> str:
    """What the destination's QEMU would do with the stream as it is: the first reason, and how many more."""
    sentences = unaided.fails or unaided.unknown or unaided.changes
    why = f": {sentences[0]}" if sentences else ""
    more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
    return f"{UNAIDED[unaided.foreseen]}{why}{more}"


def shared_names(registers: Iterable[int]) -> str:
    """``TCR2_EL1, PIR_EL1``, or the first few and how many more."""
    return _listed([name_of(register) for register in registers])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED + 1 else ""
    return ", ".join(names[:_NAMED] if more else names) + more


def _registers(crossing: Crossing, knowledge: Knowledge) -> Iterator[Statement]:
    meeting = meet(crossing.source, crossing.destination, knowledge)
    who = "guests"
    if meeting.lacking:
        # The guest as it is cannot be started there; the one that can is the one to plan for.
        common = tuple(feature for feature in meeting.features if feature not in meeting.lacking)
        who = f"guests without {' and '.join(meeting.lacking)}"
        meeting = meet(crossing.source, crossing.destination, knowledge, common)
    yield from _of_plan(crossing, who, plan_for_new_guest(meeting, knowledge))


def _of_plan(crossing: Crossing, who: str, plan: Plan) -> Iterator[Statement]:
    way, there = crossing.way, crossing.there
    if plan.outcome is Outcome.LOADS_AS_IS:
        yield Statement(way, Severity.FINE, REGISTERS, f"{who} load on {there} as they are")
    elif plan.outcome is Outcome.LOADS_REWRITTEN:
        text = f"{who} load on {there} after rewriting: {_counted(plan)}"
        yield Statement(way, Severity.REWRITTEN, REGISTERS, text, verdict=plan.worst)
    else:
        refused = tuple(dict.fromkeys(one.register for one in plan.refusals if one.register is not None))
        text = f"{who} are refused by {there}, and stay on {crossing.here}: {shared_names(refused)}"
        worst = max(refusal.verdict for refusal in plan.refusals)
        yield Statement(way, Severity.REFUSED, REGISTERS, text, refused, worst)
    yield from _reasons(way, plan)
    if plan.unaided is not None:
        yield Statement(way, Severity.FINE, "unaided", unaided_text(plan.unaided))


def _reasons(way: Way, plan: Plan) -> Iterator[Statement]:
    done = _WOULD if plan.outcome is Outcome.REFUSED else _PAST
    for refusals in _alike(plan.refusals, lambda one: (one.verdict, why_refused(one))):
        first = refusals[0]
        values = ""
        if len(refusals) == 1 and first.value is not None and first.destination_value is not None:
            values = f" is {first.value:#x} here and {first.destination_value:#x} there"
        text = f"{_targets(refusals)}{values}: {first.verdict}: {why_refused(first)}"
        yield Statement(way, Severity.REFUSED, REGISTERS, text, _registers_of(refusals), first.verdict)
    for changes in _alike(plan.changes, lambda one: (one.action, one.verdict, one.reason)):
        change = changes[0]
        values = ""
        if len(changes) == 1 and change.old is not None and change.new is not None:
            values = f" from {change.old:#x} to {change.new:#x}"
        text = f"{_targets(changes)} {done[change.action]}{values}, {change.verdict}: {change.reason}"
        yield Statement(way, Severity.REWRITTEN, REGISTERS, text, _registers_of(changes), change.verdict)
    for notices in _alike(plan.notices, lambda one: one.text):
        registers = _registers_of(notices)
        names = f"{shared_names(registers)} " if registers else ""
        yield Statement(way, Severity.FINE, REGISTERS, f"{names}{notices[0].text}", registers)


def _counted(plan: Plan) -> str:
    """``3 registers removed (proven): TCR2_EL1, PIRE0_EL1, PIR_EL1; 1 register changed (neutral): CLIDR_EL1``."""
    parts = []
    for changes in _alike(plan.changes, lambda one: (one.action, one.verdict)):
        registers = _registers_of(changes)
        first = changes[0]
        parts.append(f"{_plural(len(registers))} {_PAST[first.action]} ({first.verdict}): {shared_names(registers)}")
    return "; ".join(parts)


def _alike(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Items of one key together, in order of appearance."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _registers_of(items: Iterable[Change | Refusal | Notice]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(item.register for item in items if item.register is not None))


def _targets(items: Iterable[Change | Refusal]) -> str:
    """``ID_AA64ISAR0_EL1.TS, ID_AA64MMFR0_EL1 (TGRAN4, TGRAN16), CLIDR_EL1 and 3 more``."""
    fields: dict[int, list[str]] = {}
    for item in items:
        if item.register is not None:
            named = fields.setdefault(item.register, [])
            if item.field is not None:
                named.append(item.field)
    names = [
        name_of(register) + (f" ({', '.join(named)})" if len(named) > 1 else "".join(f".{one}" for one in named))
        for register, named in fields.items()
    ]
    return _listed(names) or "the guest"


def _plural(count: int) -> str:
    return "1 register" if count == 1 else f"{count} registers"
