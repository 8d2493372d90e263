"""A comparison as ``diff`` shows it: tables for people, one document for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from formats.arm64.register_id import name_of
from proxyd.cli.comparison import OTHER_BITS, Comparison, Difference, FieldDifference, by_field
from proxyd.cli.register_view import is_identity, ranges
from proxyd.cli.terminal import hex_or_dash, plain, print_table, table
from proxyd.rewrite.host_traits import Severity, Way

if TYPE_CHECKING:
    from rich.console import Console

    from proxyd.cli.subject import Subject
    from proxyd.rewrite.host_diff import HostDifference
    from proxyd.rewrite.host_traits import Statement

_WAYS: Final = {
    Way.A_TO_B: "Guests from A to B",
    Way.B_TO_A: "Guests from B to A",
    Way.BOTH: "Either way",
}

_STYLES: Final = {
    Severity.FINE: "green",
    Severity.REWRITTEN: "cyan",
    Severity.CARE: "yellow",
    Severity.REFUSED: "red",
    Severity.BREAKS: "bold red",
}


def show(
    console: Console, a: Subject, b: Subject, comparison: Comparison, guests: HostDifference | None = None
) -> None:
    """What the two are, what it means for guests, what only one has, and what differs: ID registers first."""
    console.print(f"A  {plain(a.name)}: {a.described()}", soft_wrap=True)
    console.print(f"B  {plain(b.name)}: {b.described()}", soft_wrap=True)
    for side, vcpus in (("A", comparison.vcpus_only_in_a), ("B", comparison.vcpus_only_in_b)):
        if vcpus:
            console.print(f"vCPUs only in {side}, not compared: {ranges(vcpus)}")
    if guests is not None:
        show_guests(console, guests)
    _show_registers(console, "Only in A", comparison.only_in_a)
    _show_registers(console, "Only in B", comparison.only_in_b)
    identity = [one for one in comparison.other_value if is_identity(one.register)]
    written = [one for one in comparison.other_value if not is_identity(one.register)]
    _show_fields(console, identity)
    _show_registers(console, "Another value, registers that the guest writes", written)
    if comparison.same:
        console.print("no difference")


def show_guests(console: Console, guests: HostDifference) -> None:
    """What it means for guests, one table for each way."""
    for way, title in _WAYS.items():
        statements = guests.of(way)
        if statements:
            shown = table("Severity", title)
            for one in statements:
                shown.add_row(Text(one.severity.value, style=_STYLES[one.severity]), plain(one.text))
            print_table(console, shown)


def _cells(one: Difference) -> tuple[str, str, str]:
    return name_of(one.register), f"{one.register:#x}", ranges(one.vcpus)


def _show_registers(console: Console, title: str, found: list[Difference] | tuple[Difference, ...]) -> None:
    if found:
        shown = table("Register", "Id", "vCPU", "A", "B", title=f"{title}: {len(found)}")
        for one in found:
            shown.add_row(*_cells(one), hex_or_dash(one.a), hex_or_dash(one.b))
        print_table(console, shown)


def _show_fields(console: Console, found: list[Difference]) -> None:
    if found:
        title = f"Another value, identification and firmware: {len(found)}"
        shown = table("Register", "Id", "vCPU", "Field", "A", "B", title=title)
        for one in found:
            shown.add_row(*_cells(one), "", hex_or_dash(one.a), hex_or_dash(one.b))
            for field in by_field(one):
                shown.add_row("", "", "", field.name, *_numbers(field))
        print_table(console, shown)


def _numbers(field: FieldDifference) -> tuple[str, str]:
    """Fields are small numbers; what no field covers is bits."""
    return (f"{field.a:#x}", f"{field.b:#x}") if field.name == OTHER_BITS else (str(field.a), str(field.b))


def document(a: Subject, b: Subject, comparison: Comparison, guests: HostDifference | None = None) -> dict[str, Any]:
    """The same for ``--json``."""
    return {
        "a": {"file": a.name, "kind": a.kind, "vcpus": [one.vcpu for one in a.vcpus]},
        "b": {"file": b.name, "kind": b.kind, "vcpus": [one.vcpu for one in b.vcpus]},
        "vcpus_only_in_a": list(comparison.vcpus_only_in_a),
        "vcpus_only_in_b": list(comparison.vcpus_only_in_b),
        "only_in_a": [_entry(one) for one in comparison.only_in_a],
        "only_in_b": [_entry(one) for one in comparison.only_in_b],
        "other_value": [_entry(one) for one in comparison.other_value],
        "guests": None if guests is None else [_statement(one) for one in guests.statements],
    }


def _statement(one: Statement) -> dict[str, Any]:
    return {
        "way": one.way.value,
        "severity": one.severity.value,
        "subject": one.subject,
        "text": one.text,
        "verdict": None if one.verdict is None else one.verdict.value,
        "registers": [{"name": name_of(register), "id": f"{register:#x}"} for register in one.registers],
    }


def _entry(one: Difference) -> dict[str, Any]:
    return {
        "name": name_of(one.register),
        "id": f"{one.register:#x}",
        "vcpus": list(one.vcpus),
        "a": None if one.a is None else f"{one.a:#x}",
        "b": None if one.b is None else f"{one.b:#x}",
        "fields": [{"field": field.name, "a": field.a, "b": field.b} for field in by_field(one)],
    }
