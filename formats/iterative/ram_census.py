"""Counting what a ``ram`` section sends: blocks, pages, zero pages. For people who look into a saved stream.

It reads the bulk that :mod:`formats.iterative.ram` has walked already, so it trusts what it sees, and takes the bytes
in any chunking. What it is not: part of the way of a live migration, where nobody counts pages.

Mirrors ``migration/ram.c: ram_load_precopy`` (QEMU 7.2 to 10.2).
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from formats.cursor import Cursor, Steps
from formats.iterative.ram_blocks import PLAIN, BlockFields, read_block_list
from formats.savevm import RamFlag

_BE64: Final = struct.Struct(">Q")
_PAGE_CONTINUE: Final = int(RamFlag.PAGE | RamFlag.CONTINUE)
_ZERO_CONTINUE: Final = int(RamFlag.ZERO | RamFlag.CONTINUE)
_ZERO_BYTES: Final = 8 + 1
_NAMED: Final = RamFlag.ZERO | RamFlag.PAGE | RamFlag.XBZRLE | RamFlag.COMPRESS_PAGE


@dataclass(slots=True)
class RamBlock:
    """One RAM block: its size in bytes, and how many of its pages the stream holds in which form.

    A page that the guest wrote to again is sent again, so the pages may be more than the block has.
    """

    name: str
    size: int = 0
    pages: int = 0
    zero_pages: int = 0
    encoded_pages: int = 0


class RamCensus:
    """Feed it the ``ram`` section's bulk, in order; ``blocks`` is true whenever a record is complete."""

    def __init__(self, page_size: int, fields: BlockFields = PLAIN) -> None:
        self._blocks: dict[str, RamBlock] = {}
        self._page_size = page_size
        self._fields = fields
        self._cursor = Cursor()
        self._passed: list[tuple[int, memoryview]] = []
        # As bulk the cursor only notes what it passes over, and makes no copy of it.
        self._cursor.begin_bulk(self._passed)
        self._records = self._read()

    @property
    def blocks(self) -> tuple[RamBlock, ...]:
        """In the order in which the stream names them."""
        return tuple(self._blocks.values())

    def feed(self, piece: bytes | memoryview) -> None:
        """Take the next piece of the section's payload."""
        self._cursor.load(piece)
        while self._cursor.available:
            next(self._records)
        self._passed.clear()

    def _read(self) -> Steps:
        cursor = self._cursor
        mask = self._page_size - 1
        stride = 8 + self._page_size
        block = RamBlock("")
        while True:
            view, position = cursor.view, cursor.position
            size = len(view)
            pages = zero_pages = 0
            while position + 8 <= size:
                flags = _BE64.unpack_from(view, position)[0] & mask
                if flags == _PAGE_CONTINUE and position + stride <= size:
                    pages += 1
                    position += stride
                elif flags == _ZERO_CONTINUE and position + _ZERO_BYTES <= size:
                    zero_pages += 1
                    position += _ZERO_BYTES
                else:
                    break
            cursor.position = position
            block.pages += pages
            block.zero_pages += zero_pages

            record = yield from cursor.be64()
            kind = RamFlag(record & mask)
            if kind & RamFlag.MEM_SIZE:
                yield from self._block_list(record & ~mask)
            elif kind & _NAMED:
                if not kind & RamFlag.CONTINUE:
                    block = self._block((yield from cursor.counted_string()).decode("ascii", "replace"))
                yield from self._page(kind, block)

    def _page(self, kind: RamFlag, block: RamBlock) -> Steps:
        cursor = self._cursor
        if kind & RamFlag.PAGE:
            block.pages += 1
            yield from cursor.skip(self._page_size)
        elif kind & RamFlag.ZERO:
            block.zero_pages += 1
            yield from cursor.skip(1)
        else:
            block.encoded_pages += 1
            yield from cursor.skip((yield from self._encoded_length(kind)))

    def _encoded_length(self, kind: RamFlag) -> Generator[None, None, int]:
        if kind & RamFlag.XBZRLE:
            _, high, low = yield from self._cursor.read(3)
            return high << 8 | low
        return (yield from self._cursor.be32())

    def _block_list(self, total: int) -> Steps:
        # What the list had to take of the record behind it is EOS, or a flush: nothing to count.
        found = yield from read_block_list(self._cursor, total, self._page_size, self._fields)
        for name, size in found.blocks:
            self._block(name).size = size

    def _block(self, name: str) -> RamBlock:
        return self._blocks.setdefault(name, RamBlock(name))
