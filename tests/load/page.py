"""docs/load.md, from the results of a run."""

from __future__ import annotations

from typing import Any

_HEAD = """# Under load

Written by `python -m tests.load run --write` from `tests/load/results.json`; the figures are of the machine below and
of nothing else. Each scenario has a daemon of its own, as an operator starts it, with the default limits; clients and
stand-ins for QEMU are on the loopback and on the same two cores. Good migrations are recorded streams of real guests
that are rewritten on their way; "arrived" are those whose every byte was as it must be. The bounds are in `tests/load`,
each with its reason; what was done for them is in [decision 52](decisions/0052-limits.md), and what an operator can set
in [operations.md](operations.md#limits).

"""

_COLUMNS = (
    "scenario",
    "good migrations: arrived",
    "longest",
    "memory grew by",
    "file descriptors",
    "threads",
    "`status`: median",
    "longest",
    "scrape: longest",
    "the loop's longest turn",
)

_TAIL = """
*What the columns are.* Memory: resident, from before the load to its peak; the daemon has some 40 MiB at its start,
and its first migrations alone take 10. `status` and scrape: asked of the control socket and the metrics port all the
time, by a process of its own. The loop's longest turn: for so long a task that was ready waited at most, measured
inside the daemon by a trio instrument; the rewriting of a large guest is one step of it.

## What else was seen

"""


def document(results: dict[str, Any]) -> str:
    """The whole page."""
    machine = results["machine"]
    measured = (
        f"Measured on {results['date']}: {machine['cpu']}, {machine['memory']}, {machine['kernel']}, "
        f"{machine['python']}, trio {machine['trio']}. The machine had other work meanwhile.\n\n"
    )
    rows = [_row(found) for found in results["scenarios"]]
    table = "\n".join(["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS), *rows]) + "\n"
    notes = "\n".join(f"* *{found['says']}*: {_note(found)}." for found in results["scenarios"])
    return _HEAD + measured + table + _TAIL + notes + "\n"


def _row(found: dict[str, Any]) -> str:
    figures = found["figures"]
    cells = (
        found["name"] + (" **(bounds not kept)**" if found["broken"] else ""),
        f"{figures['migrations']}",
        _seconds(figures["migration_longest_s"]),
        f"{figures['grown_mib']:.0f} MiB",
        f"{figures['descriptors_peak']}",
        f"{figures['threads_peak']}",
        _seconds(figures["status_median_s"]),
        _seconds(figures["status_longest_s"]),
        _seconds(figures["scrape_longest_s"]),
        _seconds(figures["longest_turn_s"]),
    )
    return "| " + " | ".join(cells) + " |"


# What a scenario has beside the table's columns, and what to call it.
_WORDS = {
    "strangers": "connections at once that had not shown what they were",
    "opened": "connections opened",
    "turned_away": "turned away",
    "greeting_s": "s until the last was cut off in the greeting",
    "prologue_s": "s in the prologue",
    "TLS handshake_s": "s in the TLS handshake",
    "device state_s": "s in the device state",
    "lost_lines": "lines lost, and counted",
    "migrations_s": "s for all migrations",
}


def _note(found: dict[str, Any]) -> str:
    figures = found["figures"]
    said = [f"{figures[key]:g} {words}" for key, words in _WORDS.items() if key in figures]
    return ", ".join([*said, *(f"**{what}**" for what in found["broken"])])


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
