"""What must not be: a guest that is lost or doubled through proxyd where QEMU alone would have kept it.

Compared by phase: in a phase in which QEMU alone, under the same fault, never lost (doubled) a guest, proxyd must not
do so once. A proxy that dies is compared with a network that breaks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tests.faults.tally import Cell, Row, Tally

KILLED_PROXY = "proxy: kill -9"
BROKEN_NETWORK = "network: RST"

ACCEPTED: dict[tuple[str, str], str] = {
    ("source: kill -9", "vmdesc"): (
        "the source dies with the vmdesc half sent. The destination of QEMU alone runs the guest then, and would do so "
        "just the same if only the network had broken and the source lived, which makes two. proxyd cannot tell one "
        "from the other, and without the vmdesc it cannot prove where a section ends ([decision 2]"
        "(decisions/0002-hold-until-the-vmdesc.md)), so it leaves the guest to the source"
    ),
}
"""(fault, phase) in which proxyd does lose a guest that QEMU alone would have kept, with the reason."""


def counterpart(cell: Cell) -> Cell:
    """What QEMU alone is asked for, to compare *cell* with."""
    fault = BROKEN_NETWORK if cell.fault.startswith(KILLED_PROXY) else cell.fault
    return replace(cell, proxy="direct", fault=fault, place="")


def worse_than_direct(rows: Iterable[Row], proxy: str = "proxyd") -> list[str]:
    """Say where *proxy* lost or doubled a guest, or spoilt its state, and QEMU alone did not."""
    tally = Tally(rows)
    found = []
    for row in tally.rows():
        if row.cell.proxy != proxy:
            continue
        alone = tally.row(counterpart(row.cell))
        for what in ("lost", "doubled", "wrong"):
            ours, theirs = getattr(row, what), getattr(alone, what) if alone else 0
            if ours and not theirs and (what != "lost" or (row.cell.fault, row.cell.phase) not in ACCEPTED):
                found.append(f"{row.cell}: {ours} of {row.tries} {what}, and QEMU alone none")
    return found
