"""``python -m tests.qemu matrix [--mode NAME] [--pair NAME] [-o docs/modes.md]``: every cell of the matrix, and a page.

Runs what ``test_matrix.py`` and ``test_streams.py`` run, goes on after failures, and writes what became of each cell.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from tests.qemu import cells
from tests.qemu.cells import VERSION_PAIRS, Bench
from tests.qemu.modes import MODES, STREAMS, Mode
from tests.qemu.pairs import Pair

HEAD = """# Ways to migrate, tried

Made by `python -m tests.qemu matrix`: do not edit. Each cell is a move of a guest that writes patterns all over its RAM
with real QEMUs (Debian's 7.2, 10.0 and 11.1, TCG) through proxyd, with a rewrite of its registers without which the
destination refuses it; "moved" means that the guest went on at the destination without a gap and with every page of its
RAM as it should be. The same mode without proxyd moves the guest between equal CPUs, and fails at the registers for
each of these pairs (`tests/qemu/test_matrix.py`). A cell that is `-` is one that the QEMU does not have.

QEMU 11.1 does not move guests back to 10.0 or 7.2 under TCG, with or without proxyd: it sends parts of the CPU's state
that those do not know (`cpu/wfxt-timer`, `cpu/fpmr`).
"""


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.qemu", description=__doc__)
    parser.add_argument("command", choices=["matrix"])
    parser.add_argument("--mode", action="append", help="only this mode (may be given again)")
    parser.add_argument("--pair", action="append", help="only this pair (may be given again)")
    parser.add_argument("-o", "--output", type=Path, help="write the page here")
    options = parser.parse_args()
    modes = [mode for mode in [*MODES, *STREAMS] if options.mode is None or mode.name in options.mode]
    pairs = [pair for pair in VERSION_PAIRS if options.pair is None or pair.name in options.pair]
    results: dict[tuple[str, str], str] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        bench = Bench.make(Path(name))
        for mode in modes:
            for pair in pairs:
                if {pair.source.name, pair.destination.name} <= set(mode.versions):
                    directory = Path(name) / f"{len(results)}"
                    directory.mkdir()
                    results[mode.name, pair.name] = _run(cells.through_proxyd, bench, pair, mode, directory)
    seconds = time.monotonic() - began
    if options.output:
        options.output.write_text(HEAD + table(modes, pairs, results))
    failed = sum(result != "moved" for result in results.values())
    print(f"{len(results)} cells in {seconds:.0f} s, {failed} failed")
    return min(failed, 1) if results else 1


def _run(
    cell: Callable[[Bench, Pair, Mode, Path], Awaitable[None]], bench: Bench, pair: Pair, mode: Mode, directory: Path
) -> str:
    began = time.monotonic()
    try:
        trio.run(cell, bench, pair, mode, directory)
    except Exception as error:
        result = "**failed**"
        print(_innermost(error), file=sys.stderr)
    else:
        result = "moved"
    print(f"{mode.name:22} {pair.name:14} {result:12} {time.monotonic() - began:.1f} s", flush=True)
    return result


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def table(modes: list[Mode], pairs: list[Pair], results: dict[tuple[str, str], str]) -> str:
    """Return the results as a table, one mode a line."""
    lines = [["mode", *(f"{pair.source.name} to {pair.destination.name}" for pair in pairs)]]
    lines.append(["---"] * len(lines[0]))
    lines += [[mode.name, *(results.get((mode.name, pair.name), "-") for pair in pairs)] for mode in modes]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
