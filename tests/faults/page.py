"""docs/reliability.md, of the results of the campaign."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.faults.tally import RESULTS, Row, read
from tests.faults.verdict import ACCEPTED, worse

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

HEAD = """# Reliability

Written by `python -m tests.faults report` from `tests/faults/results`: do not edit. `python -m tests.faults run` makes
the results anew; a chosen part of it runs with every `./check`.

The worst that proxyd may do to a guest is nothing: whatever dies, lies or stalls, at whatever byte, exactly one QEMU
has a running guest afterwards, with its state intact. This page is what became of that in tries.

## What is counted

* **tries**: migrations with one fault each. At the end, when nothing moves any more, each QEMU is asked whether it runs
  the guest.
* **at source**, **at destination**: in how many tries the guest ran there.
* **lost**: it ran nowhere. QEMU alone loses guests, too: one whose source is killed before its destination has it all.
* **doubled**: it ran on both hosts. QEMU alone does that, too, without -S: a destination starts the guest *before* it
  says so (SHUT), and a source that never hears of it resumes its own.
* **wrong**: the destination has it with a state that is not the one that was sent.
* **-S**: the destination is started with -S, as libvirt does, and the manager starts the guest there once the source
  says that the migration has completed; otherwise it ends the destination. Guests under libvirt are the rows with a
  *yes*.
* **where**: the bytes were counted, and the network broke, before the proxy or behind it. `direct` has no proxy: it is
  QEMU alone, and what proxyd is measured by. In a phase in which QEMU alone never loses (doubles) a guest under a
  fault, proxyd may not do so once. A proxy's own death is compared with a broken network (RST).
"""

ACCEPTED_HEAD = """
## Where proxyd is worse than QEMU alone

"""

MEMORY = """
## In memory, every byte

The real session, relay and rewriter of proxyd between a source and a destination that follow QEMU's rules
(`tests/faults/memory_peers.py`), with a clock that jumps. Every fault at **every byte** of the stream and of the
answer: {bytes_in} bytes come in and {bytes_out} go out, since proxyd takes out the registers that Linux 7.3 refuses of
a guest from Linux 6.12. `pipe` is two loops that copy: what any proxy does that does not understand the stream.
{facts}
"""

QEMU = """
## Real QEMU

QEMU 10.0 (precopy) and 11.1 (multifd, postcopy) from Debian, under TCG, with a guest that writes and checks its memory
all the time. Every try has QEMUs of its own: QEMU 11.1 under TCG, without any proxy, loses pages of a guest that is
migrated by postcopy after a migration that failed in its memory (42 of 300 such pairs; none of 550 with a new source).
Cells in which a first run had shown something odd were tried many times more.
{facts}
"""


OPEN_HEAD = """
### Seen once, and not explained

Cells of real QEMUs in which proxyd did worse than what it is compared with. Each was seen once, in a run on a machine
with twice as many tries at a time as cores, whose records do not say what the QEMUs had come to; the same tries were
repeated, and many like them, and it was not seen again. It may have been the campaign itself; that is not shown.

"""


def document() -> str:
    """The page."""
    parts = [HEAD]
    everything: list[Row] = []
    for name, head in (("memory", MEMORY), ("qemu", QEMU)):
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        rows, facts = read(path)
        everything += rows
        said = f"{sum(row.tries for row in rows if not row.cell.paused)} tries, {facts['date']}."
        parts.append(head.format(facts=f"\n{said}", **{k: v for k, v in facts.items() if k != "date"}))
        parts.append(_summary(rows))
        parts.append(_tables(rows))
    found = worse(everything)
    parts.insert(
        1, ACCEPTED_HEAD + _accepted() + (OPEN_HEAD + "".join(f"* {line}\n" for line in found) if found else "")
    )
    return "".join(parts)


def _accepted() -> str:
    cells: dict[str, list[str]] = {}
    for (fault, phase), reason in ACCEPTED.items():
        cells.setdefault(reason, []).append(f"{fault}, in the {phase}")
    return "".join(f"* {'; '.join(which)}: {reason}.\n" for reason, which in cells.items())


def _summary(rows: Sequence[Row]) -> str:
    """All faults of a proxy together: what they did without -S and with it."""
    lines = []
    for proxy in dict.fromkeys(row.cell.proxy for row in rows):
        for paused in (False, True):
            these = [row for row in rows if row.cell.proxy == proxy and row.cell.paused is paused]
            if these:
                lines.append([proxy, "yes" if paused else "no", *_counts(these)])
    return "\n" + _table(["", "-S", *_COUNTS], lines)


def _tables(rows: Sequence[Row]) -> str:
    """A table per fault."""
    parts = []
    for fault in dict.fromkeys(row.cell.fault for row in rows):
        lines = [
            [
                row.cell.proxy,
                *([row.cell.mode] if _has_modes(rows) else []),
                row.cell.phase,
                row.cell.place,
                "yes" if row.cell.paused else "no",
                *_counts([row]),
            ]
            for row in rows
            if row.cell.fault == fault
        ]
        names = ["", *(["mode"] if _has_modes(rows) else []), "phase", "where", "-S", *_COUNTS]
        parts.append(f"\n### {fault[0].upper()}{fault[1:]}\n\n" + _table(names, lines))
    return "".join(parts)


def _has_modes(rows: Sequence[Row]) -> bool:
    return len({row.cell.mode for row in rows}) > 1


_COUNTS = ("tries", "at source", "at destination", "lost", "doubled", "wrong")


def _counts(rows: Iterable[Row]) -> list[str]:
    sums = [0] * 6
    for row in rows:
        for i, count in enumerate((row.tries, row.source, row.destination, row.lost, row.doubled, row.wrong)):
            sums[i] += count
    return [str(count) if count or i < 3 else "-" for i, count in enumerate(sums)]


def _table(names: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [names, ["---"] * len(names), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
