"""What QEMU, KVM and proxyd say when a migration fails: recognised by text, explained from a data file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import msgspec


@dataclass(frozen=True, slots=True)
class Explanation:
    """One kind of error: where it is seen, what it means, what to do. ``rank`` 0 is the most particular.

    ``follows``: such a line only follows from another one, if there is a more particular one.
    """

    where: str
    meaning: str
    todo: str
    rank: int = 0
    follows: bool = False


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    pattern: str
    where: str
    meaning: str
    todo: str
    follows: bool = False


class _File(msgspec.Struct, forbid_unknown_fields=True):
    error: list[_Entry]


def explain_error(text: str) -> Explanation | None:
    """The first known error that the text contains."""
    for pattern, explanation in _known():
        if pattern.search(text):
            return explanation
    return None


@cache
def _known() -> Sequence[tuple[re.Pattern[str], Explanation]]:
    data = resources.files("proxyd.cli").joinpath("qemu_errors.toml").read_bytes()
    entries = msgspec.toml.decode(data, type=_File).error
    return [
        (re.compile(one.pattern), Explanation(one.where, one.meaning.strip(), one.todo.strip(), rank, one.follows))
        for rank, one in enumerate(entries)
    ]
