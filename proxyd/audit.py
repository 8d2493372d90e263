"""The audit log: every change to a register, with the old and the new value, and every migration's end.

One JSON object a line, appended to a file, each line by one write(2), so that two processes (an upgrade) may share it.
A line about a change is written after the device state has left.

Values are those of ID and feature registers and of registers that the guest never had: they say which CPU a guest was
given, and nothing of what it does. Registers that can hold a secret are redacted whatever the configuration says.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from formats.arm64.register_id import name_of
from proxyd.config import AuditConfig, AuditValues
from proxyd.rewrite.changes import Change

VERSION: Final = 1
REDACTED: Final = "redacted"

# Pointer authentication keys; thread pointers and the like hold addresses, which tell where things are.
_SECRET: Final = re.compile(r"^(AP[A-Z]+KEY(LO|HI)_EL\d|TPIDR\w*|SCXTNUM\w*|core_reg\w*)$")


class AuditLog:
    """An open audit log.

    :raises OSError: it cannot be opened.
    """

    def __init__(self, config: AuditConfig, file: Path) -> None:
        self._values = config.values
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(file, flags, 0o600)

    def changes(self, about: dict[str, Any], changes: Iterable[Change]) -> None:
        """A line for each change; ``about`` is on every one. Blocks. Raises :class:`OSError`."""
        for change in changes:
            self._write({**about, "event": "change", **self._described(change)})

    def event(self, about: dict[str, Any], event: str, **fields: Any) -> None:
        """One line about something else. Blocks. Raises :class:`OSError`."""
        self._write({**about, "event": event, **fields})

    def close(self) -> None:
        """No more lines."""
        os.close(self._descriptor)

    def _described(self, change: Change) -> dict[str, Any]:
        name = name_of(change.register)
        hidden = self._values is AuditValues.REDACTED or _SECRET.match(name) is not None
        return {
            "vcpu": change.vcpu,
            "register": f"{change.register:#x}",
            "name": name,
            "field": change.field,
            "action": change.action.value,
            "old": _value(change.old, hidden=hidden),
            "new": _value(change.new, hidden=hidden),
            "verdict": change.verdict.value,
            "reason": change.reason,
            "rule": change.rule,
            "allowed": change.allowed,
        }

    def _write(self, line: dict[str, Any]) -> None:
        data = (json.dumps({"version": VERSION, **line}) + "\n").encode()
        written = os.write(self._descriptor, data)
        if written != len(data):
            raise OSError(0, f"a line of {len(data)} bytes expected to be written, {written} were")


def _value(value: int | None, *, hidden: bool) -> str | None:
    if value is None:
        return None
    return REDACTED if hidden else f"{value:#x}"
