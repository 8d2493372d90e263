"""Walking bytes in chunks, as the parser does; for the tests of all walkers."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from formats.cursor import Cursor

T = TypeVar("T")


def run(cursor: Cursor, steps: Generator[None, None, T], wire: bytes, step: int) -> T:
    """Feed ``wire`` in chunks of ``step`` bytes until ``steps`` returns; StopIteration if the wire is too short."""
    chunks = iter([wire[i : i + step] for i in range(0, len(wire), step)])
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            value: T = stop.value
            return value
        cursor.load(next(chunks))
