"""A rehearsal for people: what KVM refused or changed, register by register, and what it comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from formats.arm64.register_id import name_of
from proxyd.cli.register_view import ranges
from proxyd.cli.terminal import hex_or_dash, plain, plural, print_table, table
from proxyd.rewrite.rehearsal import Finding, FindingKind, Rehearsal

if TYPE_CHECKING:
    from rich.console import Console

_SAYS: Final = {
    FindingKind.REFUSED: "refused",
    FindingKind.UNKNOWN: "not on this host",
    FindingKind.CHANGED: "changed without an error",
    FindingKind.MISSING: "not in the stream: keeps its own",
}


def print_rehearsal(console: Console, rehearsal: Rehearsal) -> None:
    """The findings in a table, those that are the same on several vCPUs in one line, and the verdict."""
    rows: dict[tuple[object, ...], tuple[list[int], Finding]] = {}
    for finding in rehearsal.findings:
        key = (finding.kind, finding.register, finding.wanted, finding.found, finding.errno)
        rows.setdefault(key, ([], finding))[0].append(finding.vcpu)
    if rows:
        shown = table("Register", "Id", "vCPU", "Sent", "There", "Result", title="Rehearsed")
        for who, finding in rows.values():
            result = _SAYS[finding.kind] + (f" ({finding.errno})" if finding.errno else "")
            shown.add_row(
                plain(name_of(finding.register)),
                f"{finding.register:#x}",
                ranges(who),
                hex_or_dash(finding.wanted),
                hex_or_dash(finding.found),
                result,
            )
        print_table(console, shown)
    with_features = f"{plural(rehearsal.vcpus, 'vCPU')} with {', '.join(rehearsal.features)}"
    took = f"{rehearsal.seconds:.3f} s"
    console.print(f"\nrehearsed: {rehearsal.summary()}: {with_features}, {took}", style="bold", soft_wrap=True)
