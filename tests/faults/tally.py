"""What became of a guest after a fault, and how tries are counted.

What it is not: it breaks nothing and runs nothing; both benches hand in an :class:`After` for each try.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Cell:
    """What was tried: one row of the results."""

    bench: str
    """``memory`` or ``qemu``."""
    proxy: str
    """``proxyd``, or what it is compared with: ``direct`` is QEMU alone."""
    mode: str
    """How the guest was migrated: ``precopy``, ``multifd``, ``postcopy``."""
    paused: bool
    """The destination was started with -S, and a manager starts its guest once the source says completed."""
    fault: str
    phase: str
    place: str
    """On which side of a proxy the bytes were counted, and the network broke."""

    def __str__(self) -> str:
        words = (self.proxy, self.mode, "-S" if self.paused else "", self.fault, self.phase, self.place)
        return ", ".join(filter(None, words))


@dataclass(frozen=True, slots=True)
class After:
    """Where the guest runs when nothing moves any more."""

    source: bool
    destination: bool
    wrong: bool
    """A guest runs at the destination (or would, once started) with a state that is not the one that was sent."""

    @property
    def lost(self) -> bool:
        """Nobody runs the guest."""
        return not (self.source or self.destination)

    @property
    def doubled(self) -> bool:
        """Both run it."""
        return self.source and self.destination


@dataclass(frozen=True, slots=True)
class Row:
    """A cell, and how its tries ended."""

    cell: Cell
    tries: int
    source: int
    destination: int
    lost: int
    doubled: int
    wrong: int

    def with_one_more(self, after: After) -> Row:
        """This row and one try."""
        return Row(
            self.cell,
            self.tries + 1,
            self.source + after.source,
            self.destination + after.destination,
            self.lost + after.lost,
            self.doubled + after.doubled,
            self.wrong + after.wrong,
        )


class Tally:
    """Tries, counted by cell, in the order in which the cells first came."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows = {row.cell: row for row in rows}

    def add(self, cell: Cell, after: After) -> None:
        self._rows[cell] = self._rows.get(cell, Row(cell, 0, 0, 0, 0, 0, 0)).with_one_more(after)

    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def row(self, cell: Cell) -> Row | None:
        return self._rows.get(cell)


def write(path: Path, rows: Iterable[Row], facts: dict[str, Any]) -> None:
    """Write the results of a run, one row a line so that two runs can be compared as text."""
    head = json.dumps({"version": VERSION} | facts)[:-1]
    lines = ",\n".join("  " + json.dumps(asdict(row.cell) | {k: getattr(row, k) for k in COUNTS}) for row in rows)
    path.write_text(f'{head}, "rows": [\n{lines}\n]}}\n')


COUNTS = ("tries", "source", "destination", "lost", "doubled", "wrong")


def read(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """Read what :func:`write` wrote: the rows, and the facts of the run."""
    document = json.loads(path.read_text())
    if document.pop("version") != VERSION:
        raise AssertionError(f"{path}: version {VERSION} of the results expected")
    rows = [
        Row(Cell(**{k: v for k, v in entry.items() if k not in COUNTS}), **{k: entry[k] for k in COUNTS})
        for entry in document.pop("rows")
    ]
    return rows, document
