"""Dirty bitmaps: every kind of chunk, whole and byte by byte, and what QEMU would never write."""

from __future__ import annotations

import re

import pytest

from formats.cursor import Cursor
from formats.errors import SchemaMismatch
from formats.iterative import dirty_bitmap
from tests import builders as b
from tests.walking import run

NAMES = b.counted(b"drive0") + b.counted(b"bitmap0")
EOS = b"\x01"

CHUNKS = [
    b"",
    b"\x1c" + NAMES + b.be32(65536) + b"\x01",  # START of a bitmap, with both names
    b"\x14" + b.counted(b"b1") + b.be32(65536) + b"\x01",  # of the same disk
    b"\x4c" + NAMES + b.be64(2048) + b.be32(6144) + b.be64(5) + b"\x01\x7e\0\0\x01",
    b"\x42" + b.be64(2048) + b.be32(6144),  # ZEROES: no data
    b"\x2c" + NAMES,
    b"\x20",
]


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_each_chunk_in_any_chunking(chunk: bytes, step: int) -> None:
    cursor = Cursor()
    wire = chunk * 3 + EOS
    run(cursor, dirty_bitmap.walk(cursor, b.PAGE), wire + b.footer(3), step)
    assert cursor.offset == len(wire)


def test_the_last_chunk_may_say_something_too() -> None:
    cursor = Cursor()
    wire = b"\x21" + b.footer(3)
    run(cursor, dirty_bitmap.walk(cursor, b.PAGE), wire, 100)
    assert cursor.offset == 1


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b"\x80\x01", "at 0x0: dirty bitmap chunk: flags of one byte expected, found 0x80"),
        (b"\x00", "at 0x0: dirty bitmap chunk: START, BITS or COMPLETE expected, found 0x0"),
        (b"\x20\x50", "at 0x1: dirty bitmap chunk: START, BITS or COMPLETE expected, found 0x50"),
        (
            b"\x40" + bytes(12) + b.be64(1 << 40),
            "at 0x0: dirty bitmap chunk: at most 67108864 bytes of bits expected, found 1099511627776",
        ),
    ],
)
def test_what_qemu_would_not_write(wire: bytes, message: str) -> None:
    cursor = Cursor()
    with pytest.raises(SchemaMismatch, match=f"^{re.escape(message)}$"):
        run(cursor, dirty_bitmap.walk(cursor, b.PAGE), wire, 100)
