"""The ``ram`` section of a mapped-ram file: a list of blocks, each with room for its bitmap and its pages.

With the capability ``mapped-ram`` (QEMU 9.0 and later, ``migrate file:``) every page has a place of its own in the
file. The block list of the START section then reads, per block:

    u8 n  name[n]  be64 used_length  [be64 gpa]  be32 version  be64 page_size  be64 bitmap_offset  be64 pages_offset
    bitmap   ceil(used_length / page_size) bits, in longs of the source's byte order, at bitmap_offset
    (hole up to the next MiB)
    pages    used_length bytes at pages_offset; a page whose bit is clear is zero and is not written

and goes on at pages_offset + used_length. All offsets count from the file's first byte, also where the stream begins
further on (``file:PATH,offset=N``, a libvirt save image of format sparse). The section's PARTs and its END hold nothing
but EOS, and behind it comes the device part, which refers to no offset: it may grow and shrink.

Mirrors ``migration/ram.c: mapped_ram_setup_ramblock, mapped_ram_read_header`` (QEMU 9.0 to 11.1; the layout was seen in
files of 10.0 and 11.1).
What it is not: it does not read bitmaps or pages; it takes the cursor past them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import construct as c

from formats.cursor import Cursor, Steps
from formats.errors import LimitExceeded, SchemaMismatch, UnsupportedStream, quoted
from formats.iterative.ram_blocks import MAX_BLOCKS
from formats.savevm import RamFlag

CAPABILITY: Final = "mapped-ram"
VERSION: Final = 1

# MAPPED_RAM_FILE_OFFSET_ALIGNMENT: pages begin at a whole MiB, for huge pages and direct I/O.
ALIGNMENT: Final = 1 << 20

# off_t: no file has more.
MAX_FILE_BYTES: Final = (1 << 63) - 1

# MappedRamHeader, packed
HEADER: Final = c.Struct(
    "version" / c.Int32ub, "page_size" / c.Int64ub, "bitmap_offset" / c.Int64ub, "pages_offset" / c.Int64ub
)
HEADER_BYTES: Final = HEADER.sizeof()


@dataclass(frozen=True, slots=True)
class MappedBlock:
    """One RAM block: its size in bytes, and where its bitmap and its pages are in the file."""

    name: str
    size: int
    page_size: int
    bitmap_offset: int
    pages_offset: int

    @property
    def end(self) -> int:
        """File offset behind the last page: the stream goes on here."""
        return self.pages_offset + self.size

    @property
    def bitmap_bytes(self) -> int:
        """Bytes of the bitmap that hold bits; QEMU writes whole longs."""
        return (self.size // self.page_size + 7) // 8


class MappedRam:
    """Walks the ``ram`` section of one mapped-ram file; ``blocks`` are those that were seen.

    ``gpa``: each block says its guest physical address, as with the capability x-ignore-shared. A block that is shared
    then has neither bitmap nor pages in the file, and both offsets are 0 (seen in files of 11.1; 10.0 fails to write
    one). It is not among ``blocks``.
    """

    def __init__(self) -> None:
        self.blocks: list[MappedBlock] = []
        self.gpa = False

    def walk(self, cursor: Cursor, page_size: int) -> Steps:
        """Take one section's payload up to and including its EOS, past the places of bitmaps and pages.

        ``page_size`` in bytes. Raises :class:`SchemaMismatch`, :class:`LimitExceeded` and, for pages that are not in
        their places, :class:`UnsupportedStream`.
        """
        mask = page_size - 1
        while True:
            at = cursor.offset
            record = yield from cursor.be64()
            flags = record & mask
            if flags == RamFlag.EOS:
                return
            if flags == RamFlag.MEM_SIZE:
                yield from self._block_list(cursor, record & ~mask, page_size, at)
            elif flags != RamFlag.MULTIFD_FLUSH:
                raise UnsupportedStream(f"mapped-ram: no RAM record but EOS expected, found flags {flags:#x}", at)

    def _block_list(self, cursor: Cursor, total: int, page_size: int, at: int) -> Steps:
        while total > 0:
            if len(self.blocks) >= MAX_BLOCKS:
                raise LimitExceeded(f"RAM block list: more than {MAX_BLOCKS} blocks", at)
            name = (yield from cursor.counted_string()).decode("ascii", "replace")
            size = yield from cursor.be64()
            if not name or not 0 < size <= total or size % page_size:
                raise SchemaMismatch(
                    f"RAM block list: whole pages of at most {total:#x} bytes expected, "
                    f"block {quoted(name)} has {size:#x}",
                    at,
                )
            if self.gpa:
                yield from cursor.skip(8)
            header = HEADER.parse((yield from cursor.read(HEADER_BYTES)))
            block = MappedBlock(name, size, header.page_size, header.bitmap_offset, header.pages_offset)
            total -= size
            if self.gpa and header.bitmap_offset == header.pages_offset == 0:
                continue
            _check(block, header.version, page_size, cursor.offset)
            self.blocks.append(block)
            cursor.jump(block.end)


def _check(block: MappedBlock, version: int, page_size: int, offset: int) -> None:
    """``offset`` is that of the byte behind the header, where QEMU puts the bitmap."""
    where = f"mapped-ram block {quoted(block.name)}"
    if version > VERSION:
        raise UnsupportedStream(f"{where}: version {VERSION} expected, found {version}", offset)
    if block.page_size != page_size:
        raise SchemaMismatch(f"{where}: pages of {page_size} bytes expected, found {block.page_size}", offset)
    if block.bitmap_offset != offset:
        raise SchemaMismatch(
            f"{where}: its bitmap expected at {offset:#x}, found {block.bitmap_offset:#x} "
            "(the file was cut off at its beginning, or moved inside another)",
            offset,
        )
    if block.end > MAX_FILE_BYTES:
        raise SchemaMismatch(f"{where}: its pages expected within a file, found them to end at {block.end:#x}", offset)
    if block.pages_offset < offset + block.bitmap_bytes or block.pages_offset % ALIGNMENT:
        raise SchemaMismatch(
            f"{where}: its pages expected behind the bitmap at a whole MiB, found {block.pages_offset:#x}", offset
        )
