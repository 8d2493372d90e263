"""Iterable sections: how to walk a body without looking inside. One file per kind, one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from formats.cursor import Cursor, Steps
from formats.iterative import dirty_bitmap, ram, vfio

# walk(cursor, page size in bytes): takes one section's payload, and stops before its footer.
Walker: TypeAlias = Callable[[Cursor, int], Steps]

WALKERS: Final[dict[tuple[str, int], Walker]] = {
    (ram.IDSTR, ram.VERSION): ram.walk,
    (dirty_bitmap.IDSTR, dirty_bitmap.VERSION): dirty_bitmap.walk,
    (vfio.IDSTR, vfio.VERSION): vfio.walk,
}

# What QEMU no longer sends, by the words that turn it off.
REFUSED: Final = {
    "block": "block migration (migrate -b, or migrate_set_capability block on; removed in QEMU 9.1) is not supported: "
    "copy the disks by NBD or keep them on shared storage",
}


def kind_of(idstr: str) -> str:
    """The name under which a section's walker is known: VFIO devices put their path before it (``0000:02.0/vfio``)."""
    return vfio.IDSTR if idstr.endswith(f"/{vfio.IDSTR}") else idstr
