"""The block list at the beginning of the ``ram`` section: names, sizes, and what some modes add to each entry.

    u8 n  name[n]  be64 used_length  [be64 page_size]  [be64 gpa]         until the used lengths add up to the total

``page_size`` is there where the source may switch to postcopy and the block's pages are not of the host's usual size
(hugetlbfs), ``gpa`` with the capability x-ignore-shared (QEMU refuses to combine the two). The former is announced by
nothing: whether a block has one is seen by what follows its used length. In the middle of the list that is a block's
name, which is never empty, or a page size, which is below 2**56: not 0 or 0. At its end it is another record, which
has flags in its low bits, or a page size, which has none.

Mirrors ``migration/ram.c: ram_save_setup, parse_ramblock`` (QEMU 7.2 to 11.1).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from formats.cursor import Cursor
from formats.errors import LimitExceeded, SchemaMismatch, quoted

# A machine has a handful of RAM blocks plus one per hot-plugged DIMM and per device with memory of its own.
MAX_BLOCKS: Final = 4096

# The largest huge page of any architecture is 16 GiB.
MAX_PAGE_BYTES: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class BlockFields:
    """What an entry may have besides name and used length: ``page_size`` on some blocks, ``gpa`` on all of them."""

    page_size: bool = False
    gpa: bool = False


PLAIN: Final = BlockFields()


@dataclass(frozen=True, slots=True)
class BlockList:
    """``blocks`` are (name, used length in bytes). ``record`` is the be64 behind the list, where it had to be taken to
    tell it from a page size; None where it is still to be read."""

    blocks: tuple[tuple[str, int], ...]
    record: int | None


def read_block_list(
    cursor: Cursor, total: int, page_size: int, fields: BlockFields = PLAIN
) -> Generator[None, None, BlockList]:
    """Take a list whose used lengths add up to ``total`` bytes. ``page_size`` in bytes is the target's.

    Raises :class:`SchemaMismatch` on what QEMU would not write, :class:`LimitExceeded` on too many blocks.
    """
    at = cursor.offset - 8  # of the record that announces the list
    blocks: list[tuple[str, int]] = []
    record: int | None = None
    while total > 0:
        if len(blocks) >= MAX_BLOCKS:
            raise LimitExceeded(f"RAM block list: more than {MAX_BLOCKS} blocks", at)
        name = (yield from cursor.counted_string()).decode("ascii", "replace")
        used_length = yield from cursor.be64()
        if not name:
            raise SchemaMismatch("RAM block list: empty block name", at)
        if used_length > total:
            raise SchemaMismatch(
                f"RAM block list: at most {total:#x} bytes left of the total, "
                f"block {quoted(name)} has {used_length:#x}",
                at,
            )
        total -= used_length
        blocks.append((name, used_length))
        if fields.page_size:
            record = yield from _page_size(cursor, name, page_size, last=total == 0, at=at)
        if fields.gpa:
            yield from cursor.skip(8)
    return BlockList(tuple(blocks), record)


def _page_size(cursor: Cursor, name: str, page_size: int, *, last: bool, at: int) -> Generator[None, None, int | None]:
    """Take the block's page size, if it has one. Returns the be64 that was no page size, if one was taken."""
    if not last and (yield from cursor.peek_u8()) != 0:
        return None
    value = yield from cursor.be64()
    if last and value & (page_size - 1):
        return value
    if value & (value - 1) or not page_size <= value <= MAX_PAGE_BYTES:
        raise SchemaMismatch(f"RAM block list: a page size expected for block {quoted(name)}, found {value:#x}", at)
    return None
