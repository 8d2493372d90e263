"""What the commands print with: consoles, tables, progress, JSON documents.

Results go to standard output, everything said about them (progress, reports, errors) to standard error. Colours and
progress only where there is a terminal; NO_COLOR is respected. Text from a stream is foreign: it goes through
:func:`plain`, so that an idstr cannot move the cursor.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

JSON_VERSION: Final = 1

# Without a terminal there is no width. Tables use what they need, and long reasons fold here.
WIDTH_OF_A_PIPE: Final = 140

# What is over sooner than this needs no progress bar; and drawing it more often than this costs time.
PROGRESS_AFTER_S: Final = 0.5
PROGRESS_EVERY_S: Final = 0.1


def console(*, stderr: bool = False) -> Console:
    """A console that takes text literally: no markup, no emoji, no guessing what is a number."""
    from rich import console as rich

    class Console(rich.Console):
        def on_broken_pipe(self) -> None:
            """Let the command line decide what becomes of it; rich would leave with exit code 1."""
            raise  # noqa: PLE0704 - rich calls this while it handles the BrokenPipeError

    stream: TextIO = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_PIPE
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def table(*columns: str, title: str | None = None) -> Table:
    """A table for people. Only the last column folds."""
    from rich import box
    from rich.table import Table

    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        made.add_column(column, no_wrap=column != columns[-1], overflow="fold")
    return made


def print_table(console: Console, made: Table) -> None:
    """Print a table with an empty line above it."""
    console.print()
    print_lines(console, made)


def print_lines(console: Console, made: Table) -> None:
    """Print a table without the blanks that fill its lines."""
    with console.capture() as capture:
        console.print(made)
    console.file.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def plain(text: str) -> str:
    """Foreign text with everything that is not printable as ``\\x..``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def hex_or_dash(value: int | None) -> str:
    """A register's value; a dash where there is none."""
    return "-" if value is None else f"{value:#x}"


def size_of(count: int) -> str:
    """A number of bytes for people, in powers of 1024."""
    if count < 10240:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / (1 << 10 * power):.1f} {'KMGT'[power - 1]}iB"


def plural(count: int, noun: str) -> str:
    """``1 register``, ``2 registers``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def print_json(command: str, document: dict[str, Any], *, stderr: bool = False) -> None:
    """Print a ``--json`` document: ``version`` and ``command`` first, two spaces, ASCII."""
    stream = sys.stderr if stderr else sys.stdout
    stream.write(json_text(command, document))


def json_text(command: str, document: dict[str, Any]) -> str:
    """A ``--json`` document as text."""
    return json.dumps({"version": JSON_VERSION, "command": command} | document, indent=2) + "\n"


def says(text: str, *, quiet: bool = False) -> None:
    """One line on standard error, where that is a terminal: what is being worked on."""
    if not quiet and sys.stderr.isatty():
        sys.stderr.write(f"{text}\n")


class Progress:
    """Draws how far a file is read. Does nothing while the work is short."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what = what
        self._total = total
        self._began = self._drawn = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def advance_to(self, done: int) -> None:
        """So many bytes of the file are read."""
        now = time.monotonic()
        if now - self._began < PROGRESS_AFTER_S or now - self._drawn < PROGRESS_EVERY_S:
            return
        self._drawn = now
        if self._bar is None:
            self._start()
        self._bar.update(self._task, completed=done)
        self._bar.refresh()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def _start(self) -> None:
        from rich import progress as rich

        columns: list[rich.ProgressColumn] = [
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.DownloadColumn(binary_units=True),
            rich.TransferSpeedColumn(),
        ]
        if self._total is not None:
            columns.append(rich.TimeRemainingColumn())
        # No refresh thread: the bar is drawn from the reading loop, so nothing is left behind when that is interrupted.
        self._bar = rich.Progress(*columns, console=console(stderr=True), transient=True, auto_refresh=False)
        self._bar.start()
        self._task = self._bar.add_task(self._what, total=self._total)


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Progress | None]:
    """A progress bar on standard error, or None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    bar = Progress(plain(what), total)
    try:
        yield bar
    finally:
        bar.close()
