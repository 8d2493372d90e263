"""The RAM walk: every kind of record, whole and byte by byte, and what QEMU would never write."""

from __future__ import annotations

import re

import pytest

from formats.cursor import Cursor
from formats.errors import FormatError, LimitExceeded, SchemaMismatch, UnsupportedStream
from formats.iterative import ram
from formats.iterative.ram_blocks import PLAIN, BlockFields
from tests import builders as b

BLOCK = b"mach-virt.ram"

RECORDS = [
    b"",
    b.mem_size({BLOCK: 1 << 30, b"virt.flash0": 64 << 20}),
    b.mem_size({}),
    b.page(0, block=BLOCK) + b.page(b.PAGE) + b.page(2 * b.PAGE),
    b.zero_page(0, BLOCK) + b.zero_page(b.PAGE) * 3 + b.page(0),
    # XBZRLE: u8 1, be16 length, data
    b.be64(b.FLAG_XBZRLE | b.FLAG_CONTINUE) + b"\x01\x00\x05hello",
    b.be64(b.FLAG_XBZRLE) + b.counted(BLOCK) + b"\x01\x00\x00",
    # COMPRESS_PAGE: be32 length, data
    b.be64(b.FLAG_COMPRESS | b.FLAG_CONTINUE) + b.be32(3) + b"abc",
    # MULTIFD_FLUSH: nothing
    b.page(0, block=BLOCK) + b.be64(b.FLAG_MULTIFD_FLUSH) + b.page(b.PAGE),
]


def walk(wire: bytes, step: int, fields: BlockFields = PLAIN) -> tuple[int, bytes]:
    """Walk ``wire`` in chunks; returns how far the walk went and the bulk that came out."""
    cursor, pieces = Cursor(), []
    cursor.begin_bulk(pieces)
    steps = ram.walk(cursor, b.PAGE, fields)
    chunks = iter([wire[i : i + step] for i in range(0, len(wire), step)])
    while True:
        try:
            next(steps)
        except StopIteration:
            cursor.end_bulk()
            return cursor.offset, b"".join(bytes(piece) for _, piece in pieces)
        cursor.load(next(chunks))


@pytest.mark.parametrize("records", RECORDS)
@pytest.mark.parametrize("step", [1, 7, 4104, 1 << 20])
def test_each_record_in_any_chunking(records: bytes, step: int) -> None:
    wire = records + b.EOS
    assert walk(wire + b"\x7e", step) == (len(wire), wire)


@pytest.mark.parametrize("pages", [7, 8, 9, 40, 41, 300])
@pytest.mark.parametrize("then", [b"", b.zero_page(0), b.page(0, block=BLOCK), b.zero_page(0) + b.page(0) * 20])
def test_a_run_of_pages_ends_where_it_ends(pages: int, then: bytes) -> None:
    """Page contents that look like headers must not matter, wherever a chunk is cut."""
    wire = b.page(0, block=BLOCK) + b.page(1 << 40, b.be64(0x28) * 512) * pages + then + b.EOS
    for step in (len(wire) + 1, 100_000, 4104, 4099):
        assert walk(wire + b"\x7e", step) == (len(wire), wire)


@pytest.mark.parametrize("at", [0, 8, 9, 39, 40, 99])
@pytest.mark.parametrize("flags", [0x428, 0x128, 0x08, 0x29])
def test_an_odd_record_in_a_run_is_seen(at: int, flags: int) -> None:
    odd = b.be64(0x7000 | flags) + bytes(b.PAGE)
    wire = b.page(0x1000) * at + odd + b.page(0x1000) * (100 - at) + b.EOS
    with pytest.raises(FormatError, match=f"^at {at * 4104:#x}: RAM record: "):
        walk(wire, len(wire))


def test_pages_of_64_kib() -> None:
    cursor = Cursor()
    page = b.page(0, bytes(1 << 16))
    cursor.load(page * 20 + b.EOS)
    with pytest.raises(StopIteration):
        next(ram.walk(cursor, 1 << 16))
    assert cursor.available == 0


@pytest.mark.parametrize(
    ("wire", "kind", "message"),
    [
        (b.be64(0x400), SchemaMismatch, "at 0x0: RAM record: unknown flags 0x400"),
        (b.be64(0x30), SchemaMismatch, "at 0x0: RAM record: flag 0x10 expected alone, found 0x30"),
        (b.be64(0x0C), SchemaMismatch, "at 0x0: RAM record: flag 0x4 expected alone, found 0xc"),
        (b.be64(0x0A) + b.counted(BLOCK), SchemaMismatch, "at 0x0: RAM record: contradicting flags 0xa"),
        (
            b.be64(0x80),
            UnsupportedStream,
            "at 0x0: RDMA migration is not supported: memory does not go through the stream",
        ),
        (b.be64(0x00), SchemaMismatch, "at 0x0: RAM record: flags 0x0 are none that precopy over a socket has"),
        (b.be64(0x08) + b"\0", SchemaMismatch, "at 0x0: RAM record: empty block name"),
        (b.be64(0x60) + b"\x02\0\0", SchemaMismatch, "at 0x0: RAM record: XBZRLE encoding 1 expected, found 2"),
        (
            b.be64(0x120) + b.be32(1 << 20),
            SchemaMismatch,
            "at 0x0: RAM record: compressed page of at most 131072 bytes expected, found 1048576",
        ),
        (
            b.be64(b.PAGE | b.FLAG_MEM_SIZE) + b.counted(b"x") + b.be64(b.PAGE * 2),
            SchemaMismatch,
            "at 0x0: RAM block list: at most 0x1000 bytes left of the total, block 'x' has 0x2000",
        ),
        (
            b.be64(b.PAGE | b.FLAG_MEM_SIZE) + b"\0" + b.be64(b.PAGE),
            SchemaMismatch,
            "at 0x0: RAM block list: empty block name",
        ),
        (
            b.be64(b.PAGE | b.FLAG_MEM_SIZE) + (b.counted(b"x") + b.be64(0)) * 4097,
            LimitExceeded,
            "at 0x0: RAM block list: more than 4096 blocks",
        ),
    ],
)
def test_what_qemu_would_not_write(wire: bytes, kind: type[FormatError], message: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        walk(wire + b.EOS, 1 << 20)


HUGE = b.be64(b.PAGE | b.FLAG_MEM_SIZE) + b.counted(b"x") + b.be64(b.PAGE) + b.be64(1 << 21)
USUAL = HUGE[:-8]


@pytest.mark.parametrize("blocks", [HUGE, USUAL])
@pytest.mark.parametrize("then", [b.EOS, b.be64(b.FLAG_MULTIFD_FLUSH) + b.EOS])
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_a_list_with_page_sizes_ends_where_it_ends(blocks: bytes, then: bytes, step: int) -> None:
    wire = blocks + then
    assert walk(wire + b"\x7e", step, BlockFields(page_size=True)) == (len(wire), wire)


def test_what_follows_a_list_with_page_sizes() -> None:
    with pytest.raises(SchemaMismatch, match=r"^at 0x0: RAM block list: EOS expected behind it, found flags 0x28$"):
        walk(USUAL + b.page(0), 1000, BlockFields(page_size=True))
