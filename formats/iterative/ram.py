"""Walking the payload of a ``ram`` section, version 4, without looking at a page.

A record is ``be64 offset|flags`` and what the flags ask for; the page size bounds the flags, so RAM is fully
self-delimiting. Mirrors ``migration/ram.c: ram_load_precopy`` (QEMU 7.2 to 10.2).

    MEM_SIZE        a list of blocks (:mod:`.ram_blocks`), whose lengths add up to the offset
    ZERO            [u8 n name[n]] u8
    PAGE            [u8 n name[n]] page
    XBZRLE          [u8 n name[n]] u8 be16 n data[n]
    COMPRESS_PAGE   [u8 n name[n]] be32 n data[n]          (removed in QEMU 9.1)
    MULTIFD_FLUSH   the destination waits for its multifd channels                             (since QEMU 8.1)
    EOS             end of this section's payload

The block's name is there unless CONTINUE is set. Nearly every record of a migration is PAGE|CONTINUE or ZERO|CONTINUE,
and the next header is then a known number of bytes on: one ``unpack_from`` and a compare per page.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Final

from formats.cursor import Cursor, Steps
from formats.errors import SchemaMismatch, UnsupportedStream
from formats.iterative.ram_blocks import PLAIN, BlockFields, read_block_list
from formats.savevm import RamFlag

IDSTR: Final = "ram"
VERSION: Final = 4

# be32 lengths inside a record; a compressed page is never larger than deflate's bound for the largest page (64 KiB).
MAX_ENCODED_PAGE: Final = 1 << 17

_BE64: Final = struct.Struct(">Q")
_PAGE_CONTINUE: Final = int(RamFlag.PAGE | RamFlag.CONTINUE)
_ZERO_CONTINUE: Final = int(RamFlag.ZERO | RamFlag.CONTINUE)
_ZERO_BYTES: Final = 8 + 1
_KNOWN_FLAGS: Final = 0x3FF

# Pages in a row after which more are expected; runs of a real guest are of one to a few hundred.
_RUN: Final = 8
_PAGE_CONTINUE_BYTE: Final = bytes([_PAGE_CONTINUE])
_NAMED: Final = RamFlag.ZERO | RamFlag.PAGE | RamFlag.XBZRLE | RamFlag.COMPRESS_PAGE


def walk(cursor: Cursor, page_size: int, fields: BlockFields = PLAIN) -> Steps:
    """Take one section's payload up to and including its EOS record.

    ``page_size`` in bytes; ``fields`` is what the block list has beyond the usual. Raises :class:`SchemaMismatch` on a
    record that QEMU would not write, :class:`UnsupportedStream` on one of a mode proxyd does not carry.
    """
    mask = page_size - 1
    while True:
        cursor.position = _whole_records(cursor.view, cursor.position, page_size)

        at = cursor.offset
        record = yield from cursor.be64()
        flags = record & mask
        if flags == _PAGE_CONTINUE:  # one that the end of a chunk cuts: there is one in every chunk
            yield from cursor.skip(page_size)
        elif flags & ~_KNOWN_FLAGS:
            raise SchemaMismatch(f"RAM record: unknown flags {flags:#x}", at)
        elif flags & RamFlag.EOS:
            _only(flags, RamFlag.EOS, at)
            return
        elif flags & RamFlag.MEM_SIZE:
            _only(flags, RamFlag.MEM_SIZE, at)
            taken = (yield from read_block_list(cursor, record & ~mask, page_size, fields)).record
            if taken == RamFlag.EOS:
                return
            if taken not in (None, RamFlag.MULTIFD_FLUSH):
                raise SchemaMismatch(f"RAM block list: EOS expected behind it, found flags {taken & mask:#x}", at)
        elif flags & _NAMED:
            yield from _page(cursor, RamFlag(flags), page_size, at)
        elif flags == RamFlag.MULTIFD_FLUSH:
            continue  # the pages that it waits for are on other channels
        elif flags == RamFlag.HOOK:
            raise UnsupportedStream("RDMA migration is not supported: memory does not go through the stream", at)
        else:
            raise SchemaMismatch(f"RAM record: flags {flags:#x} are none that precopy over a socket has", at)


def _whole_records(view: memoryview, position: int, page_size: int) -> int:
    """The fast path: behind all PAGE|CONTINUE and ZERO|CONTINUE records that are whole in this chunk.

    Not part of the generator, whose variables would keep the chunk in memory while it waits for the next one.
    """
    mask = page_size - 1
    stride = 8 + page_size
    unpack = _BE64.unpack_from
    size = len(view)
    last = size - 8
    pages = 0
    while position <= last:
        flags = unpack(view, position)[0] & mask
        if flags == _PAGE_CONTINUE:
            pages += 1
            following = position + stride
        elif flags == _ZERO_CONTINUE:
            pages = 0
            following = position + _ZERO_BYTES
        else:
            break
        if following > size:
            break
        position = following
        if pages >= _RUN:
            # Not all that is left at once, so that a run which ends has not cost more than it saved.
            count = min(4 * pages, (size - position) // stride)
            run = _page_run(view[position : position + count * stride], stride, mask)
            position += run * stride
            pages = pages + run if run == count else 0
    return position


def _page_run(records: memoryview, stride: int, mask: int) -> int:
    """How many records, from the first on, are PAGE|CONTINUE: a sixth of the loop's time per page.

    By induction: if one is, then the next header is exactly ``stride`` bytes on. The flags are in the low bits of a
    header's bytes 6 and 7 (pages are 64 KiB at most).
    """
    low = bytes(records[7::stride])
    high = bytes(records[6::stride]).translate(_high_flags(mask))
    return len(low) - max(len(low.lstrip(_PAGE_CONTINUE_BYTE)), len(high.lstrip(b"\0")))


@cache
def _high_flags(mask: int) -> bytes:
    """A translation of a header's byte 6 that keeps the bits which are flags."""
    return bytes(byte & mask >> 8 for byte in range(256))


def _page(cursor: Cursor, flags: RamFlag, page_size: int, at: int) -> Steps:
    kind = flags & ~RamFlag.CONTINUE
    if not flags & RamFlag.CONTINUE:
        name = yield from cursor.counted_string()
        if not name:
            raise SchemaMismatch("RAM record: empty block name", at)
    if kind == RamFlag.PAGE:
        yield from cursor.skip(page_size)
    elif kind == RamFlag.ZERO:
        yield from cursor.skip(1)
    elif kind == RamFlag.XBZRLE:
        encoding, high, low = yield from cursor.read(3)
        if encoding != 1:
            raise SchemaMismatch(f"RAM record: XBZRLE encoding 1 expected, found {encoding}", at)
        yield from cursor.skip(high << 8 | low)
    elif kind == RamFlag.COMPRESS_PAGE:
        length = yield from cursor.be32()
        if length > MAX_ENCODED_PAGE:
            raise SchemaMismatch(
                f"RAM record: compressed page of at most {MAX_ENCODED_PAGE} bytes expected, found {length}",
                at,
            )
        yield from cursor.skip(length)
    else:
        raise SchemaMismatch(f"RAM record: contradicting flags {int(flags):#x}", at)


def _only(flags: int, expected: RamFlag, at: int) -> None:
    if flags != expected:
        raise SchemaMismatch(f"RAM record: flag {int(expected):#x} expected alone, found {flags:#x}", at)
