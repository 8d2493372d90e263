"""What must not be: a guest that is lost or doubled through proxyd where it would have been kept without proxyd.

Compared by phase: in a phase in which QEMU alone, under the same fault, never lost (doubled) a guest, proxyd must not
do so once. QEMU alone has no proxy that could die, so the death of one is compared with that of proxies that only copy.
A state that is wrong is compared with the whole mode of QEMU alone, since it is no matter of when.
A proxy that is asked to end, to read its configuration anew or to wait has no excuse at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tests.faults.tally import Cell, Row, Tally

PROXY = "proxyd"
DEATHS = ("proxy: gone with its host", "proxy: kill -9", "proxy: SIGSTOP, kill -9")
COPIERS = ("pipe", "socat", "haproxy")
THE_OTHER = "two at once, the other"
"""Nothing happened to it, but it shares a proxy with one to which something did."""

ACCEPTED: dict[tuple[str, str], str] = dict.fromkeys(
    (("source: gone with its host", "vmdesc"), ("source: kill -9", "vmdesc"), ("source: SIGSTOP, kill -9", "vmdesc")),
    "the source dies with the vmdesc half sent, and the destination was started without -S. QEMU alone runs "
    "the guest at the destination then, and would do so just the same if only the network had broken and the "
    "source lived, which makes two. proxyd cannot tell one from the other, and without the vmdesc it cannot prove "
    "where a section ends ([decision 2](decisions/0002-hold-until-the-vmdesc.md)), so it leaves the guest to its "
    "source",
)
"""(fault, phase) in which proxyd does lose a guest that QEMU alone would have kept, with the reason."""


def counterparts(cell: Cell) -> list[Cell]:
    """What *cell* is compared with; nothing, where a guest must be kept whatever others do."""
    mode = "precopy" if cell.mode.startswith("two at once") else cell.mode
    if cell.fault in DEATHS:
        return [replace(cell, proxy=proxy, mode=mode) for proxy in COPIERS]
    if cell.fault.startswith("proxy: ") or cell.mode == THE_OTHER:
        return []
    return [replace(cell, proxy="direct", mode=mode, place="")]


def worse(rows: Iterable[Row], proxy: str = PROXY) -> list[str]:
    """Say where *proxy* lost or doubled a guest, or spoilt its state, and what it is compared with did not."""
    tally = Tally(rows)
    found = []
    for row in tally.rows():
        if row.cell.proxy != proxy:
            continue
        if row.cell.mode == THE_OTHER and row.cell.fault in DEATHS:
            # The proxy's death struck it, too, and nobody knows in which phase it was by then.
            others = [other for other in tally.rows() if _is_a_copier_s(row.cell, other)]
        else:
            others = [other for cell in counterparts(row.cell) if (other := tally.row(cell)) is not None]
        for what in ("lost", "doubled"):
            accepted = what == "lost" and (row.cell.fault, row.cell.phase) in ACCEPTED
            if getattr(row, what) and not accepted and not any(getattr(other, what) for other in others):
                found.append(f"{row.cell}: {getattr(row, what)} of {row.tries} {what}, and others none")
        if row.wrong and not any(_is_alone_in(row.cell, other) and other.wrong for other in tally.rows()):
            found.append(f"{row.cell}: {row.wrong} of {row.tries} wrong, and QEMU alone never in this mode")
    return found


def _is_a_copier_s(cell: Cell, other: Row) -> bool:
    """Whether *other* is of a proxy that only copies and died of the same fault, whenever."""
    there = other.cell
    return (there.proxy in COPIERS, there.mode, there.fault, there.paused) == (True, "precopy", cell.fault, cell.paused)


def _is_alone_in(cell: Cell, other: Row) -> bool:
    """Whether *other* is of QEMU alone in the mode of *cell*."""
    return (other.cell.bench, other.cell.proxy, other.cell.mode) == (cell.bench, "direct", cell.mode)
