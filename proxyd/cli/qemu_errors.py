"""What QEMU says when a migration fails over registers: recognised by text, explained from a data file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

import msgspec

from formats.arm64.register_id import SysregEncoding

# kvm-all.c: kvm_print_register_name (QEMU 10.2 and newer) and the texts of 11.1.
_SYSREG: Final = re.compile(r"op0:(\d+) op1:(\d+) crn:(\d+) crm:(\d+) op2:(\d+)")
_FIRMWARE: Final = re.compile(r"\bfw reg (\d+)")
_ID: Final = re.compile(r"\b0x60[0-9a-f]{14}\b")
_FIRMWARE_BASE: Final = 0x6030000000140000


@dataclass(frozen=True, slots=True)
class Explanation:
    """One kind of error: where it is seen, what it means, what to do."""

    where: str
    meaning: str
    todo: str


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    pattern: str
    where: str
    meaning: str
    todo: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    error: list[_Entry]


def explain_error(text: str) -> Explanation | None:
    """The first known error that the text contains."""
    for pattern, explanation in _known():
        if pattern.search(text):
            return explanation
    return None


def registers_named(text: str) -> tuple[int, ...]:
    """The registers that the text names in QEMU's ways, in order, each once."""
    found = [(match.start(), SysregEncoding(*map(int, match.groups())).register_id) for match in _SYSREG.finditer(text)]
    found += [(match.start(), _FIRMWARE_BASE + int(match[1])) for match in _FIRMWARE.finditer(text)]
    found += [(match.start(), int(match[0], 16)) for match in _ID.finditer(text)]
    return tuple(dict.fromkeys(register for _, register in sorted(found)))


@cache
def _known() -> Sequence[tuple[re.Pattern[str], Explanation]]:
    data = resources.files("proxyd.cli").joinpath("qemu_errors.toml").read_bytes()
    entries = msgspec.toml.decode(data, type=_File).error
    return [(re.compile(one.pattern), Explanation(one.where, one.meaning.strip(), one.todo.strip())) for one in entries]
