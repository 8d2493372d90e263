"""docs/compatibility.md: what a matrix has found, as a page. The same results always give the same text."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from tests.kvmlab.catalogue import catalogue
from tests.kvmlab.judgement import STORED_AS, depends_on_the_guest, mismatches, plan_of, unnamed
from tests.kvmlab.results import Move, Noticed, Result, Results, refusal_of, release

KERNELS = tuple(catalogue().kernels)
"""In the order of their releases, so that neighbours can be shown as a range."""

DEMUX = re.compile(r"DEMUX_CCSIDR\[\d+\]")

HEAD = """\
# Compatibility: ten kernels, measured

This page is generated from `tests/kvmlab/results` (`python -m tests.kvmlab report`); a test keeps the two equal. What
it says was done by real kernels and real QEMU, on emulated CPUs (`docs/kvmlab.md`), to a guest that watches its own
registers (`tests/guest/kvm_checker.c`). Source and destination have the same emulated CPU and the same QEMU.
"""

LEGEND = """\
Rows are sources, columns destinations. Left of the slash what happens directly, right of it through proxyd:

| sign | meaning |
| --- | --- |
| `ok` | loads; the guest's own check finds nothing different |
| `id` | loads; the guest finds only identification registers different |
| `ch` | loads; the guest finds a register changed that it had written |
| `no` | QEMU at the destination fails to load it; the guest goes on at its source |
| `ref` | proxyd refuses before any device state is released, naming the register; the guest goes on at its source |
"""


Key = TypeVar("Key")


class Part(NamedTuple):
    """Cells that belong in one table."""

    cpu: str
    guest: str
    allow: tuple[str, ...]

    def __str__(self) -> str:
        qemu, vcpus, devices, program = self.guest.split()
        many = "1 vCPU" if vcpus == "1" else f"{vcpus} vCPUs"
        also = "" if program == "checker" else f", {program}"
        allow = f", allowed to lose {', '.join(self.allow)}" if self.allow else ""
        return f"{self.cpu}, QEMU {qemu}, {many}, {devices} devices{also}{allow}"


def page(results: Results) -> str:
    """Return the whole page."""
    cells = sorted(
        results.cells.values(), key=lambda c: (c.cpu, c.allow, c.guest, release(c.source), release(c.destination))
    )
    parts: dict[Part, list[Result]] = defaultdict(list)
    for cell in cells:
        parts[Part(cell.cpu, cell.guest, cell.allow)].append(cell)
    sections = [
        [HEAD, *_what(results, cells)],
        ["## In short", "", *_summary(parts)],
        ["## Pair by pair", "", LEGEND, *_tables(parts)],
        ["## Why proxyd refuses", "", *_refusals(cells)],
        ["## What proxyd changes", "", *_changes(cells)],
        ["## What the guest finds after a load through proxyd", "", *_found(results, cells)],
        ["## What is lost without a word where nothing is between", "", *_silent(cells)],
        ["## What QEMU says where it fails to load", "", *_errors(cells)],
        ["## Where the plan depends on what the guest has done", "", *_guests(results, cells)],
        ["## Where prediction and reality differ", "", *_mismatches(results, cells)],
    ]
    return "\n".join("\n".join(section).rstrip() + "\n" for section in sections)


def _what(results: Results, cells: Sequence[Result]) -> Iterator[str]:
    dates = sorted({cell.date for cell in cells})
    versions = {row["stream"].split()[2]: row["qemu"] for row in results.streams.values()}
    kernels = sorted({listed["kernel"] for listed in results.hosts.values()}, key=lambda name: release_of(name))
    yield f"* **When**: {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else "")
    yield f"* **Kernels**: {', '.join(kernels)}"
    yield f"* **QEMU**: {', '.join(versions[series] for series in sorted(versions, key=release))}"
    yield f"* **CPUs**: {', '.join(sorted({cell.cpu for cell in cells}))}"
    yield f"* **Cells**: {len(cells)}, each of them one migration directly and one through `proxyd serve`"


def release_of(uname: str) -> tuple[int, ...]:
    """``6.12.107+deb13-cloud-arm64`` -> (6, 12), for order."""
    major, minor = uname.split(".")[:2]
    return int(major), int(re.match(r"\d+", minor)[0])  # type: ignore[index]  # a release has a number there


def _summary(parts: Mapping[Part, Sequence[Result]]) -> Iterator[str]:
    yield from _table(
        ["what ran", "cells", "directly: load", "fail", "through proxyd: load", "refused", "fail",
         "old to new: load through proxyd"],
        (
            [
                str(part), len(cells),
                *(sum(cell.direct.end == end for cell in cells) for end in ("loads", "fails")),
                *(sum(cell.proxied.end == end for cell in cells) for end in ("loads", "refused", "fails")),
                f"{sum(c.proxied.end == 'loads' for c in cells if c.upwards)} of {sum(c.upwards for c in cells)}",
            ]
            for part, cells in parts.items()
        ),
    )  # fmt: skip


def _tables(parts: Mapping[Part, Sequence[Result]]) -> Iterator[str]:
    for part, cells in parts.items():
        by_pair = {(cell.source, cell.destination): cell for cell in cells}
        kernels = sorted({kernel for pair in by_pair for kernel in pair}, key=release)
        yield f"### {part}"
        yield ""
        rows = (
            [f"**{source}**", *(_sign(by_pair.get((source, destination))) for destination in kernels)]
            for source in kernels
        )
        yield from _table(["", *kernels], rows)
        yield ""


def _sign(cell: Result | None) -> str:
    return "" if cell is None else f"{_sign_of(cell.direct)} / {_sign_of(cell.proxied)}"


def _sign_of(move: Move) -> str:
    if move.end == "loads":
        return "ch" if move.changed else "id" if move.identity else "ok"
    return {"fails": "no", "refused": "ref"}.get(move.end, move.end)


def _refusals(cells: Sequence[Result]) -> Iterator[str]:
    found = _grouped(cells, lambda cell: {refusal_of(text) for text in cell.proxied.refusals})
    yield from _table(
        ["register", "verdict", "reason", "where"],
        ([f"`{key.register}`", key.verdict, key.reason, _where(where)] for key, where in sorted(found.items())),
    )


def _changes(cells: Sequence[Result]) -> Iterator[str]:
    found = _grouped(
        cells, lambda cell: {(DEMUX.sub("DEMUX_CCSIDR", t.register), t.action, t.verdict) for t in cell.proxied.touched}
    )
    yield from _table(
        ["register", "action", "verdict", "where"],
        ([f"`{key[0]}`", key[1], key[2], _where(where)] for key, where in sorted(found.items())),
    )


def _found(results: Results, cells: Sequence[Result]) -> Iterator[str]:
    yield "*Named*: by proxyd, as a change that it made, or in a notice (the stream does not carry it, say)."
    yield ""

    def named(cell: Result) -> set[tuple[Noticed, str, str]]:
        silent = unnamed(cell, plan_of(cell, results))
        move = cell.proxied
        if move.end != "loads":
            return set()
        return {
            (_anywhere(each), kind, "no" if each in silent else _how(cell, each))
            for kind, group in (("state", move.changed), ("identity", move.identity))
            for each in group
        }

    found = _grouped(cells, named)
    rows = (
        [f"`{noticed.register}`", f"{noticed.was} -> {noticed.now}", kind, how, _where(where)]
        for (noticed, kind, how), where in sorted(found.items())
    )
    yield from _table(["register", "value", "kind", "named", "where"], rows)


def _anywhere(noticed: Noticed) -> Noticed:
    """The same on any vCPU."""
    return Noticed(0, noticed.register, noticed.was, noticed.now)


def _how(cell: Result, noticed: Noticed) -> str:
    names = {noticed.register, STORED_AS.get(noticed.register)}
    touched = {each.verdict for each in cell.proxied.touched if re.split(r"[.\[]", each.register)[0] in names}
    return ", ".join(f"change, {verdict}" for verdict in sorted(touched)) or "notice"


def _silent(cells: Sequence[Result]) -> Iterator[str]:
    loaded = [cell for cell in cells if cell.direct.end == "loads"]
    found = _grouped(loaded, lambda cell: {(_anywhere(each), cell.cpu) for each in cell.direct.changed})
    changed = sum(bool(cell.direct.changed) for cell in loaded)
    yield f"Of {len(loaded)} direct migrations that load, {changed} leave the guest with a register changed that it had"
    yield "written, and no error anywhere:"
    yield ""
    rows = (
        [f"`{noticed.register}`", f"{noticed.was} -> {noticed.now}", _where(where)]
        for (noticed, _), where in sorted(found.items())
    )
    yield from _table(["register", "value", "where"], rows)
    stayed = [(cell, move) for cell in cells for move in (cell.direct, cell.proxied) if move.runs_on == "source"]
    lost = {each.register for _, move in stayed for each in move.changed}
    if lost:
        kernels = {cell.source for cell, move in stayed if move.changed}
        yield ""
        names = ", ".join(sorted(lost))
        yield "A guest that stays on its source after a migration that failed or was refused finds registers changed by"
        yield f"its own kernel, on Linux {_kernels_text(kernels)}: {names} (`docs/kvmlab.md`)."


def _errors(cells: Sequence[Result]) -> Iterator[str]:
    failed = [cell for cell in cells if cell.direct.end == "fails"]
    found = _grouped(failed, lambda cell: {(cell.qemu, _error(cell.direct.errors))})
    rows = ([qemu, text, _where(where)] for (qemu, text), where in sorted(found.items()))
    yield from _table(["QEMU", "what its destination says", "where"], rows)


def _error(lines: Sequence[str]) -> str:
    """The lines that tell, numbers left out where they differ from pair to pair."""
    telling = [line.removeprefix("qemu: ") for line in lines if "warning:" not in line]
    telling = [line for line in telling if not line.startswith("error while loading state for instance")]
    alike = (re.sub(r"(value |<= )\d+", r"\1N", re.sub(r"(demuxed reg) \w+", r"\1 N", line)) for line in telling)
    return "<br>".join(dict.fromkeys(alike))


def _guests(results: Results, cells: Sequence[Result]) -> Iterator[str]:
    yield "Predictions on this page are `proxyd plan` for this guest: from the registers that its stream carries on its"
    yield "source's host, and the destination's description. A plan from two hosts' descriptions alone is for a guest"
    yield "that has written nothing yet; it says the same, but for what this guest has in use:"
    yield ""
    found = _grouped(cells, lambda cell: set(depends_on_the_guest(cell, results)))
    yield from _table(["refused only where in use", "where"], ([f"`{k}`", _where(w)] for k, w in sorted(found.items())))


def _mismatches(results: Results, cells: Sequence[Result]) -> Iterator[str]:
    found = _grouped(cells, lambda cell: set(mismatches(cell, results)))
    if not found and not results.broken:
        yield f"Nowhere in {len(cells)} cells."
        return
    for text, where in sorted(found.items()):
        yield f"* {_where(where)}: {text}"
    for key, error in sorted(results.broken.items()):
        yield f"* {key}: broke off: {error}"


def _grouped(cells: Iterable[Result], keys: Callable[[Result], Iterable[Key]]) -> dict[Key, list[Result]]:
    found: dict[Key, list[Result]] = defaultdict(list)
    for cell in cells:
        for key in keys(cell):
            found[key].append(cell)
    return found


def _where(cells: Sequence[Result]) -> str:
    """Say which cells: pairs, and for each set of pairs the CPUs and QEMUs that it is true for."""
    pairs: dict[Part, set[tuple[str, str]]] = defaultdict(set)
    for cell in cells:
        pairs[Part(cell.cpu, cell.guest, cell.allow)].add((cell.source, cell.destination))
    alike: dict[str, list[Part]] = defaultdict(list)
    for part, found in pairs.items():
        alike[_pairs_text(found)].append(part)
    return "; ".join(f"{text} ({_parts_text(parts)})" for text, parts in alike.items())


def _parts_text(parts: Sequence[Part]) -> str:
    by_cpu: dict[str, list[str]] = defaultdict(list)
    for part in parts:
        qemu, vcpus, *_ = part.guest.split()
        more = ("" if vcpus == "1" else f" with {vcpus} vCPUs") + (" and leave to lose" if part.allow else "")
        by_cpu[part.cpu].append(qemu + more)
    return ", ".join(f"{cpu}: {' '.join(qemus)}" for cpu, qemus in by_cpu.items())


def _pairs_text(pairs: Iterable[tuple[str, str]]) -> str:
    """``6.16-7.3 -> 6.12``: sources that go to the same destinations together, neighbours as a range."""
    destinations: dict[str, set[str]] = defaultdict(set)
    for source, destination in pairs:
        destinations[source].add(destination)
    sources: dict[str, list[str]] = defaultdict(list)
    for source in sorted(destinations, key=release):
        sources[_kernels_text(destinations[source])].append(source)
    return ", ".join(f"{_kernels_text(group)} to {text}" for text, group in sources.items())


def _kernels_text(kernels: Iterable[str]) -> str:
    runs: list[list[str]] = []
    for kernel in sorted(kernels, key=release):
        if runs and KERNELS.index(kernel) == KERNELS.index(runs[-1][-1]) + 1:
            runs[-1].append(kernel)
        else:
            runs.append([kernel])
    return " ".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join([' --- '] * len(head))}|"
    for row in rows:
        yield f"| {' | '.join(str(each).replace('|', chr(92) + '|') for each in row)} |"
