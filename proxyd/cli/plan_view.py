"""A plan for people: what changes, with which verdict and why; what is refused; what is worth knowing.

Changes that are the same on several vCPUs, as they must be, are one line.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Final, TypeVar

from formats.arm64.register_id import name_of
from proxyd.cli.register_view import ranges
from proxyd.cli.terminal import hex_or_dash, plain, plural, print_table, table
from proxyd.rewrite.plan import Action, Change, Notice, Outcome, Plan, Refusal
from proxyd.rewrite.unaided import Foreseen, Unaided
from proxyd.rewrite.verdict import Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

T = TypeVar("T", Change, Refusal, Notice)

_STYLES: Final = {
    Verdict.PROVEN: "green",
    Verdict.NEUTRAL: "cyan",
    Verdict.LOSSY: "yellow",
    Verdict.UNKNOWN: "red",
}

OUTCOMES: Final = {
    Outcome.LOADS_AS_IS: "loads as it is",
    Outcome.LOADS_REWRITTEN: "loads rewritten",
    Outcome.REFUSED: "refused",
}

UNAIDED: Final = {
    Foreseen.LOADS: "without proxyd it would load, and nothing would be lost",
    Foreseen.CHANGES: "without proxyd it would load, and change the guest without an error",
    Foreseen.FAILS: "without proxyd the load would fail",
    Foreseen.UNKNOWN: "without proxyd nobody can say what would happen",
}


def print_plan(console: Console, plan: Plan) -> None:
    """The three tables, those that are not empty, and the outcome."""
    print_changes(console, plan.changes)
    if plan.refusals:
        shown = table("Register", "Id", "vCPU", "Here", "Destination", "Verdict", "Why", title="Refused")
        for who, refusal in _together(plan.refusals, lambda one: (one.register, one.field, one.value, one.reason)):
            shown.add_row(
                *_register(refusal.register, refusal.field),
                ranges(who),
                hex_or_dash(refusal.value),
                hex_or_dash(refusal.destination_value),
                _verdict(refusal.verdict),
                plain(refusal.reason),
            )
        print_table(console, shown)
    print_notices(console, plan.notices)
    if plan.unaided is not None:
        print_unaided(console, plan.unaided)
    console.print(f"\n{OUTCOMES[plan.outcome]}: {summary(plan)}", style="bold", soft_wrap=True)


def print_changes(console: Console, changes: Iterable[Change]) -> None:
    """What is changed, register by register."""
    rows = _together(changes, lambda one: (one.action, one.register, one.field, one.old, one.new, one.reason))
    if rows:
        shown = table("Register", "Id", "vCPU", "Change", "Verdict", "Why", title="Changes")
        for who, change in rows:
            why = change.reason + (" (allowed by name)" if change.allowed else "")
            cells = (*_register(change.register, change.field), ranges(who), change_text(change))
            shown.add_row(*cells, _verdict(change.verdict), plain(why))
        print_table(console, shown)


def print_notices(console: Console, notices: Iterable[Notice]) -> None:
    """What is not changed and worth knowing."""
    rows = _together(notices, lambda one: (one.register, one.text))
    if rows:
        shown = table("Register", "Id", "vCPU", "Note", title="Not changed, and worth knowing")
        for who, notice in rows:
            shown.add_row(*_register(notice.register), ranges(who), plain(notice.text))
        print_table(console, shown)


def print_unaided(console: Console, unaided: Unaided) -> None:
    """What the destination's QEMU would make of it as it is: the first reason, and how many more."""
    sentences = unaided.fails or unaided.unknown or unaided.changes
    why = f": {sentences[0]}" if sentences else ""
    more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
    console.print(f"\n{UNAIDED[unaided.foreseen]}{plain(why)}{more}", soft_wrap=True)


def change_text(change: Change) -> str:
    """``removed (was 0x0)``, ``0x0 -> 0x2``, ``added as 0x1``."""
    if change.action is Action.REMOVE:
        return f"removed (was {hex_or_dash(change.old)})"
    if change.action is Action.ADD:
        return f"added as {hex_or_dash(change.new)}"
    return f"{hex_or_dash(change.old)} -> {hex_or_dash(change.new)}"


def summary(plan: Plan) -> str:
    """The figures in one line."""
    verdicts = sorted({change.verdict for change in plan.changes})
    counts = [
        f"{sum(1 for _ in _together((c for c in plan.changes if c.verdict is verdict), _same_change))} {verdict.value}"
        for verdict in verdicts
    ]
    parts = [f"{plural(len(_together(plan.changes, _same_change)), 'change')}"]
    if counts:
        parts.append(f" ({', '.join(counts)})")
    if plan.refusals:
        parts.append(
            f", {plural(len(_together(plan.refusals, lambda one: (one.register, one.field, one.reason))), 'refusal')}"
        )
    parts.append(f", {plural(len(plan.vcpus), 'vCPU')}")
    return "".join(parts)


def _same_change(change: Change) -> Hashable:
    return (change.action, change.register, change.field)


def _together(items: Iterable[T], key: Callable[[T], Hashable]) -> list[tuple[list[int], T]]:
    """The items with the vCPUs they hold for, in order of appearance."""
    rows: dict[Hashable, tuple[list[int], T]] = {}
    for item in items:
        rows.setdefault(key(item), ([], item))[0].append(item.vcpu)
    return list(rows.values())


def _register(register: int | None, field: str | None = None) -> tuple[str, str]:
    if register is None:
        return ("-", "-")
    return (name_of(register) + ("" if field is None else f".{field}"), f"{register:#x}")


def _verdict(verdict: Verdict) -> Text:
    from rich.text import Text

    return Text(verdict.value, style=_STYLES[verdict])
