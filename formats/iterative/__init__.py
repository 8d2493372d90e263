"""Iterable sections: how to walk a body without looking inside. One file per kind, one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from formats.cursor import Cursor, Steps
from formats.iterative import ram

# walk(cursor, page size in bytes): takes one section's payload, and stops before its footer.
Walker: TypeAlias = Callable[[Cursor, int], Steps]

WALKERS: Final[dict[tuple[str, int], Walker]] = {
    (ram.IDSTR, ram.VERSION): ram.walk,
}
