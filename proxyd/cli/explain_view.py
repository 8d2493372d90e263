"""What is known of a register, or of an error, as ``explain`` shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from formats.arm64.id_fields import fields_of
from formats.arm64.register_id import RegisterKind, encoding_of, kind_of, name_of, size_of
from formats.qemu_log import LogKind
from proxyd.cli.register_advice import advice
from proxyd.cli.terminal import plain, print_lines, print_table, table
from proxyd.rewrite.knowledge import Case, Entry, Knowledge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from formats.qemu_log import LogLine
    from proxyd.cli.log_explained import ExplainedLines
    from proxyd.cli.qemu_errors import Explanation


def show_error(console: Console, explanation: Explanation) -> None:
    """Where it is seen, what it means, what to do."""
    for title, text in (("seen", explanation.where), ("means", explanation.meaning), ("do", explanation.todo)):
        _print_entry(console, title, text)


def show_lines(console: Console, found: ExplainedLines, knowledge: Knowledge, *, quoted: bool) -> None:
    """One kind of error: its lines if they are ``quoted``, what it means, and what that is for the registers named."""
    if quoted:
        console.print()
        for line in found.lines:
            console.print(plain(line), style="bold", soft_wrap=True)
    show_error(console, found.explanation)
    for fact in found.facts:
        told = advice(fact, knowledge)
        if told and fact.register is not None:
            if quoted:
                console.print(f"{name_of(fact.register)}  {fact.register:#x}", soft_wrap=True)
            for title, text in told:
                _print_entry(console, title, text)


def show_consequences(console: Console, found: Sequence[ExplainedLines]) -> None:
    """Lines that only follow from what was explained before."""
    console.print("\nAnd what follows from that:")
    for one in found:
        for line in one.lines:
            console.print(f"  {plain(line)}", soft_wrap=True)


def show_names(console: Console, registers: Sequence[int]) -> None:
    """Where to read on."""
    names = ", ".join(f"{name_of(register)} ({register:#x})" for register in registers)
    console.print(f"\nregisters: {names}; 'proxyd explain REGISTER' tells all of one", soft_wrap=True)


def show_register(console: Console, register: int) -> None:
    """Name, id, kind, what the knowledge base says, and the fields of an ID register."""
    console.print(f"{name_of(register)}  {register:#x}", style="bold")
    _print_entry(console, "kind", _kind_text(register))
    entry = Knowledge.builtin().entry(register)
    if entry is None:
        _print_entry(console, "known", "nothing: a change of it has the verdict unknown, and is refused")
    else:
        _print_knowledge(console, entry)
    if fields_of(register):
        fields = table("Field", "Bits", "", title="Fields")
        for field in reversed(fields_of(register)):
            low, high = field.shift, field.shift + field.width - 1
            bits = str(low) if low == high else f"{high}:{low}"
            fields.add_row(field.name, bits, "signed" if field.signed else "")
        print_table(console, fields)


def _print_knowledge(console: Console, entry: Entry) -> None:
    _print_entry(console, "listed", entry.listed)
    for line in _accepts_texts(entry):
        _print_entry(console, "accepts", line)
    if entry.enabled_by is not None:
        _print_entry(console, "hidden", _hidden_text(entry))
    if entry.cases:
        cases = table("When", "Change", "Verdict", "Why, and the evidence", title="What may be changed")
        for case in entry.cases:
            cases.add_row(_when(case), _action(case), case.verdict.value, f"{case.reason}\n({case.evidence})")
        print_table(console, cases)


def _print_entry(console: Console, title: str, text: str) -> None:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=8)
    grid.add_column(overflow="fold")
    grid.add_row(title, text)
    print_lines(console, grid)


def _kind_text(register: int) -> str:
    kind = kind_of(register)
    operands = f" {encoding_of(register)}" if kind is RegisterKind.SYSREG else ""
    return f"{kind.value}{operands}, {8 * size_of(register)} bits"


def _accepts_texts(entry: Entry) -> list[str]:
    return [str(rule) for rule in entry.accepts]


def _hidden_text(entry: Entry) -> str:
    if entry.enabled_by is None:
        return ""
    field = f"{name_of(entry.enabled_by.register)}.{entry.enabled_by.field}"
    return f"by Linux {entry.enabled_by.since} and newer while {field} is 0"


def _when(case: Case) -> str:
    parts = [f"the destination has {case.repair}"] if case.repair is not None else []
    if case.when is not None:
        parts.append(str(case.when))
    return " and ".join(parts) or "always"


def _action(case: Case) -> str:
    field = "" if case.field is None else f" {case.field}"
    value = "" if case.value is None else f" {case.value:#x}"
    return f"{case.action.value}{field}{value}"


def error_document(explanation: Explanation) -> dict[str, str]:
    """The same for ``--json``."""
    return {"where": explanation.where, "meaning": explanation.meaning, "todo": explanation.todo}


def lines_document(found: ExplainedLines, knowledge: Knowledge) -> dict[str, Any]:
    """One kind of error in a log, for ``--json``."""
    return {
        "lines": list(found.lines),
        **error_document(found.explanation),
        "facts": [_fact(fact, knowledge) for fact in found.facts],
    }


def _fact(fact: LogLine, knowledge: Knowledge) -> dict[str, Any]:
    lengths = fact.kind is LogKind.LIST_TOO_LONG
    return {
        "kind": fact.kind.value,
        "register": None if fact.register is None else f"{fact.register:#x}",
        "name": None if fact.register is None else name_of(fact.register),
        "errno": fact.errno,
        "wanted": fact.wanted if lengths or fact.wanted is None else f"{fact.wanted:#x}",
        "own": fact.own if lengths or fact.own is None else f"{fact.own:#x}",
        "advice": [text for _, text in advice(fact, knowledge)],
    }


def register_document(register: int) -> dict[str, Any]:
    """The same for ``--json``."""
    kind = kind_of(register)
    entry = Knowledge.builtin().entry(register)
    return {
        "name": name_of(register),
        "id": f"{register:#x}",
        "kind": kind.value,
        "bytes": size_of(register),
        "operands": str(encoding_of(register)) if kind is RegisterKind.SYSREG else None,
        "fields": [
            {"name": one.name, "shift": one.shift, "width": one.width, "signed": one.signed}
            for one in fields_of(register)
        ],
        "knowledge": None if entry is None else _knowledge_document(entry),
    }


def _knowledge_document(entry: Entry) -> dict[str, Any]:
    return {
        "listed": entry.listed,
        "accepts": _accepts_texts(entry),
        "hidden": _hidden_text(entry) or None,
        "evidence": entry.evidence,
        "cases": [
            {
                "action": case.action.value,
                "field": case.field,
                "when": None if case.when is None else str(case.when),
                "value": None if case.value is None else f"{case.value:#x}",
                "destination": None if case.repair is None else str(case.repair),
                "verdict": case.verdict.value,
                "reason": case.reason,
                "evidence": case.evidence,
            }
            for case in entry.cases
        ],
    }
