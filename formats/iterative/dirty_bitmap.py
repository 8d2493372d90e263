"""Walking the payload of a ``dirty-bitmap`` section, version 1: the dirty bitmaps of the guest's disks.

A payload is chunks, of which the last one has the flag EOS. A chunk without a name is of the disk, or of the bitmap,
that was named before.

    u8 flags  [u8 n node[n]  if DEVICE_NAME]  [u8 n bitmap[n]  if BITMAP_NAME]
    START       be32 granularity  u8 flags of the bitmap
    COMPLETE    -
    BITS        be64 first sector  be32 sectors  [be64 length  data[length]  unless ZEROES]

Mirrors ``migration/block-dirty-bitmap.c: dirty_bitmap_load, dirty_bitmap_load_header`` (QEMU 7.2 to 11.1).
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

from formats.cursor import Cursor, Steps
from formats.errors import SchemaMismatch

IDSTR: Final = "dirty-bitmap"
VERSION: Final = 1

# A chunk of bits covers 1 KiB of bitmap or what the bitmap's serialization is aligned to, some KiB at most.
MAX_CHUNK_BYTES: Final = 64 << 20


class Flag(IntFlag):
    """DIRTY_BITMAP_MIG_FLAG_*. A larger field of flags would begin with 0x80; QEMU has no flag that needs one."""

    EOS = 0x01
    ZEROES = 0x02
    BITMAP_NAME = 0x04
    DEVICE_NAME = 0x08
    START = 0x10
    COMPLETE = 0x20
    BITS = 0x40
    EXTRA = 0x80


def walk(cursor: Cursor, _page_size: int) -> Steps:
    """Take one section's payload up to and including the chunk with EOS.

    Raises :class:`SchemaMismatch` on a chunk that QEMU would not write.
    """
    while True:
        at = cursor.offset
        flags = Flag((yield from cursor.u8()))
        if flags & Flag.EXTRA:
            raise SchemaMismatch(f"dirty bitmap chunk: flags of one byte expected, found {int(flags):#x}", at)
        for flag in (Flag.DEVICE_NAME, Flag.BITMAP_NAME):
            if flags & flag:
                yield from cursor.counted_string()
        kind = flags & (Flag.START | Flag.COMPLETE | Flag.BITS)
        if kind == Flag.START:
            yield from cursor.skip(4 + 1)
        elif kind == Flag.BITS:
            yield from cursor.skip(8 + 4)
            if not flags & Flag.ZEROES:
                yield from _bits(cursor, at)
        elif kind not in (Flag.COMPLETE, Flag(0)) or not flags & (Flag.COMPLETE | Flag.EOS):
            raise SchemaMismatch(f"dirty bitmap chunk: START, BITS or COMPLETE expected, found {int(flags):#x}", at)
        if flags & Flag.EOS:
            return


def _bits(cursor: Cursor, at: int) -> Steps:
    length = yield from cursor.be64()
    if length > MAX_CHUNK_BYTES:
        raise SchemaMismatch(
            f"dirty bitmap chunk: at most {MAX_CHUNK_BYTES} bytes of bits expected, found {length}", at
        )
    yield from cursor.skip(length)
