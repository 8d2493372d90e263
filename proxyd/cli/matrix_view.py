"""Guests between hosts: the N x N table of ``plan``, and the reasons that its cells refer to by number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from formats.arm64.register_id import name_of
from proxyd.cli.register_view import ranges
from proxyd.cli.terminal import plain, plural, print_table, table
from proxyd.rewrite.guest_features import host_features
from proxyd.rewrite.host_diff import shared_names
from proxyd.rewrite.host_matrix import Cell, CellOutcome, HostMatrix, Reason
from proxyd.rewrite.kernel import parse_kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from proxyd.cli.subject import Subject
    from proxyd.rewrite.host import HostDescription

_STYLES: Final = {
    CellOutcome.LOADS_AS_IS: "green",
    CellOutcome.LOADS_REWRITTEN: "cyan",
    CellOutcome.REFUSED: "red",
    CellOutcome.BREAKS: "bold red",
    CellOutcome.NO_GUEST: "dim",
}

_WORDS: Final = {
    CellOutcome.LOADS_AS_IS: "as is",
    CellOutcome.LOADS_REWRITTEN: "rewritten",
    CellOutcome.REFUSED: "refused",
    CellOutcome.BREAKS: "breaks",
    CellOutcome.NO_GUEST: "no guest",
}


def letter(place: int) -> str:
    """A, B ... Z, AA, AB ..."""
    return (letter(place // 26 - 1) if place >= 26 else "") + chr(ord("A") + place % 26)


def print_matrix(console: Console, subjects: Sequence[Subject], matrix: HostMatrix) -> None:
    """The hosts, the table, the reasons, and the sum."""
    for place, subject in enumerate(subjects):
        console.print(f"{letter(place)}  {plain(subject.name)}: {subject.described()}", soft_wrap=True)
    _print_cells(console, matrix)
    _print_reasons(console, matrix.reasons)
    console.print(f"\n{summary(matrix)}", style="bold", soft_wrap=True)


def _print_cells(console: Console, matrix: HostMatrix) -> None:
    count = len(matrix.hosts)
    labels = [_label(place, host) for place, host in enumerate(matrix.hosts)]
    shown = table("Guests of", *(f"to {label}" for label in labels))
    for column in shown.columns[1:]:
        column.no_wrap = False
    for source in range(count):
        cells = [matrix.cell(source, destination) for destination in range(count)]
        shown.add_row(labels[source], *(Text(cell_text(cell), style=_STYLES[cell.outcome]) for cell in cells))
    print_table(console, shown)


def _label(place: int, host: HostDescription) -> str:
    """``B 6.12``: the letter, and the kernel's release where it is known."""
    kernel = parse_kernel(host.kernel)
    return letter(place) if kernel is None else f"{letter(place)} {kernel}"


def cell_text(cell: Cell) -> str:
    """``as is``, ``rewritten, proven (1,2)``, ``refused, FW_PSCI_VERSION (3)``."""
    what = _WORDS[cell.outcome]
    if cell.outcome is CellOutcome.LOADS_REWRITTEN and cell.worst is not None:
        what += f", {cell.worst.value}"
    if cell.outcome is CellOutcome.REFUSED and cell.register is not None:
        what += f", {name_of(cell.register)}" + (f".{cell.field}" if cell.field else "")
    return f"{what} ({ranges(cell.decisive)})" if cell.decisive else what


def _print_reasons(console: Console, reasons: Sequence[Reason]) -> None:
    if reasons:
        shown = table("No", "Effect", "Verdict", "Registers, and why", title="Reasons")
        for one in reasons:
            verdict = "" if one.verdict is None else one.verdict.value
            shown.add_row(str(one.number), one.effect.value, verdict, plain(_sentence(one)))
        print_table(console, shown)


def _sentence(reason: Reason) -> str:
    names = f"{shared_names(sorted(reason.registers))}: " if reason.registers else ""
    return f"{names}{reason.text}"


def summary(matrix: HostMatrix) -> str:
    """``90 ways between 10 hosts: 30 as is, 40 rewritten, 20 refused``; a host's way to itself does not count."""
    ways = [cell for cell in matrix.cells if cell.source != cell.destination]
    counts = [
        f"{number} {_WORDS[outcome]}"
        for outcome in CellOutcome
        if (number := sum(cell.outcome is outcome for cell in ways))
    ]
    return f"{plural(len(ways), 'way')} between {len(matrix.hosts)} hosts: {', '.join(counts)}"


def document(subjects: Sequence[Subject], matrix: HostMatrix) -> dict[str, Any]:
    """The same for ``--json``."""
    return {
        "outcome": "all-load" if matrix.all_load else "refused",
        "hosts": [
            {
                "file": subject.name,
                "name": host.name,
                "kernel": host.kernel,
                "cpu": host.cpu,
                "features": list(host_features(host)),
            }
            for subject, host in zip(subjects, matrix.hosts, strict=True)
        ],
        "cells": [_cell(cell) for cell in matrix.cells],
        "reasons": [
            {
                "number": one.number,
                "effect": one.effect.value,
                "verdict": None if one.verdict is None else one.verdict.value,
                "text": one.text,
                "registers": [{"name": name_of(register), "id": f"{register:#x}"} for register in one.registers],
            }
            for one in matrix.reasons
        ],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    refused = cell.register
    return {
        "source": cell.source,
        "destination": cell.destination,
        "features": list(cell.features),
        "outcome": cell.outcome.value,
        "worst": None if cell.worst is None else cell.worst.value,
        "register": None if refused is None else f"{refused:#x}",
        "name": None if refused is None else name_of(refused),
        "field": cell.field,
        "reasons": list(cell.reasons),
        "decisive": list(cell.decisive),
        "unaided": None if cell.unaided is None else cell.unaided.value,
    }
