"""Structured logs on standard error: one line per fact, as text or JSON, with one migration id per session.

Standard ``logging`` does the work; this module adds two formatters and :class:`Journal`, which puts fields beside a
message. Under systemd the text form carries the journal's priority prefix (sd-daemon(3)) and leaves out the time,
which the journal has already. The daemon's lines go through :mod:`proxyd.line_writer`, so that a standard error that
is stuck stops no migration.

What a stream says (machine names, idstrs) is foreign text. Both forms escape it, so that a stream cannot forge a line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

from formats.arm64.register_id import describe
from proxyd.config import LogConfig, LogFormat
from proxyd.line_writer import LineWriter

if TYPE_CHECKING:
    from proxyd.rewrite.plan import Change, Notice, Plan, Refusal

LOGGER: Final = logging.getLogger("proxyd")

# sd-daemon(3): SD_ERR 3, SD_WARNING 4, SD_INFO 6, SD_DEBUG 7.
_JOURNAL_PRIORITY: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}

Field = str | int | float | bool | None


class Journal:
    """Writes log lines that all carry the same fields, such as the migration's id and route."""

    def __init__(self, logger: logging.Logger = LOGGER, **fields: Field) -> None:
        self._logger = logger
        self._fields = fields

    def having(self, **fields: Field) -> Journal:
        """The same journal with more fields on every line."""
        return Journal(self._logger, **{**self._fields, **fields})

    def debug(self, message: str, **fields: Field) -> None:
        """Worth knowing when looking for a fault."""
        self._write(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: Field) -> None:
        """What a migration did."""
        self._write(logging.INFO, message, fields)

    def warning(self, message: str, **fields: Field) -> None:
        """A migration did not happen, or the operator should look."""
        self._write(logging.WARNING, message, fields)

    def error(self, message: str, *, exc_info: BaseException | None = None, **fields: Field) -> None:
        """Something that proxyd itself could not do."""
        self._write(logging.ERROR, message, fields, exc_info)

    def _write(self, level: int, message: str, fields: dict[str, Field], exc_info: BaseException | None = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", message, exc_info=exc_info, extra={"fields": {**self._fields, **fields}})


class TextFormatter(logging.Formatter):
    """``time level message key=value ...``; under systemd ``<priority>message key=value ...``."""

    def __init__(self, *, journald: bool) -> None:
        super().__init__()
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message and the fields hold; a traceback follows as indented lines."""
        words = [_line(record.getMessage())]
        words += [f"{key}={_value(value)}" for key, value in _fields(record)]
        if self._journald:
            prefix = f"<{_JOURNAL_PRIORITY.get(record.levelno, 6)}>"
        else:
            prefix = f"{_time(record)} {record.levelname.lower():7} "
        text = prefix + " ".join(words)
        if record.exc_info:
            # Each line needs the priority of its own, or the journal files it as information.
            continuation = "\n" + (prefix if self._journald else "") + "    "
            text += continuation + continuation.join(self.formatException(record.exc_info).splitlines())
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON. Fields cannot replace the first four keys: they are written last."""
        entry: dict[str, Any] = dict(_fields(record))
        entry |= {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        first = ("time", "level", "logger", "message")
        ordered = {key: entry[key] for key in first} | {k: v for k, v in entry.items() if k not in first}
        return json.dumps(ordered)


class _LineHandler(logging.Handler):
    """Formats a record and leaves the line to a :class:`LineWriter`."""

    def __init__(self, lines: LineWriter) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits. Errors are bugs of ours, and are the caller's."""
        self._lines.put(self.format(record) + "\n")

    def notice(self, count: int) -> str:
        """The line that stands in for lines that were lost."""
        number = "1 line was" if count == 1 else f"{count} lines were"
        message = f"{number} lost here: whoever reads them stood still"
        record = logging.LogRecord(LOGGER.name, logging.WARNING, __file__, 0, message, None, None)
        record.fields = {"lost": count}
        return self.format(record) + "\n"


def configure(config: LogConfig, stream: TextIO | LineWriter | None = None, *, journald: bool | None = None) -> None:
    """Send proxyd's log lines to ``stream`` (default: standard error). Called again, it replaces what it set up.

    :param journald: whether the stream leads to the journal; by default ``JOURNAL_STREAM`` tells (systemd.exec(5)).
    """
    if journald is None:
        journald = _is_journal(os.environ.get("JOURNAL_STREAM", ""))
    is_json = config.format is LogFormat.JSON
    formatter = JsonFormatter() if is_json else TextFormatter(journald=journald)
    output: logging.Handler
    if isinstance(stream, LineWriter):
        output = _LineHandler(stream)
        stream.notice = output.notice
    else:
        output = logging.StreamHandler(sys.stderr if stream is None else stream)
    output.setFormatter(formatter)
    # trio's own, too: it tells of accept() that fails, and would write to standard error itself.
    for logger in (LOGGER, logging.getLogger("trio")):
        logger.handlers[:] = [output]
        logger.setLevel(config.level.upper())
        logger.propagate = False


def write_plan(journal: Journal, plan: Plan) -> None:
    """One line per change, and one per notice. Called after the tail has left, because lines cost time."""
    for change in plan.changes:
        write_change(journal, change)
    # What the destination adds it adds to every vCPU; a line for each would bury the changes.
    same: dict[tuple[int | None, str], list[Notice]] = {}
    for notice in plan.notices:
        same.setdefault((notice.register, notice.text), []).append(notice)
    for (register, text), notices in same.items():
        name = None if register is None else describe(register)
        journal.info(text, vcpu=notices[0].vcpu, vcpus=len(notices), register=name)


def write_change(journal: Journal, change: Change) -> None:
    """What was done to one register of one vCPU, and why."""
    journal.info(
        f"register {_PAST[change.action.value]}",
        vcpu=change.vcpu,
        register=describe(change.register),
        field=change.field,
        old=_hex(change.old),
        new=_hex(change.new),
        verdict=change.verdict.value,
        reason=change.reason,
        rule=change.rule,
        evidence=change.evidence,
        allowed=change.allowed or None,
    )


def write_refusals(journal: Journal, refusals: Iterable[Refusal]) -> None:
    """One line per refusal: the sentence itself says vCPU, register, values and reason."""
    for refusal in refusals:
        journal.warning(str(refusal), verdict=refusal.verdict.value)


_PAST: Final = {"remove": "removed", "set": "set", "add": "added"}


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:#x}"


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, Field]]:
    fields: dict[str, Field] = getattr(record, "fields", {})
    return ((key, value) for key, value in fields.items() if value is not None)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _value(value: Field) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    text = str(value)
    plain = text and text.isprintable() and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text)


def _is_journal(journal_stream: str) -> bool:
    """``JOURNAL_STREAM`` is inherited by children, so it must name the very file that standard error is."""
    try:
        there = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{there.st_dev}:{there.st_ino}"
