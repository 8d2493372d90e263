"""VFIO state: marks and data, whole and byte by byte, and what QEMU would never write in the middle of memory."""

from __future__ import annotations

import re

import pytest

from formats.cursor import Cursor
from formats.errors import FormatError, SchemaMismatch, UnsupportedStream
from formats.iterative import vfio
from tests import builders as b
from tests.walking import run


def mark(number: int) -> bytes:
    return b.be64(0xFFFFFFFFEF100000 | number)


END, CONFIG, SETUP, DATA, INIT_DATA_SENT = map(mark, range(1, 6))


@pytest.mark.parametrize(
    "wire",
    [
        SETUP + END,
        DATA + b.be64(20) + END * 2 + b"four" + END,
        DATA + b.be64(0) + INIT_DATA_SENT + END,
        DATA + b.be64(3) + b"abc" + DATA + b.be64(1) + b"d" + END,
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_each_kind_of_section_in_any_chunking(wire: bytes, step: int) -> None:
    cursor = Cursor()
    run(cursor, vfio.walk(cursor, b.PAGE), wire + b.footer(3), step)
    assert cursor.offset == len(wire)


@pytest.mark.parametrize(
    ("wire", "kind", "message"),
    [
        (
            SETUP + CONFIG,
            UnsupportedStream,
            "at 0x8: VFIO: the device's configuration expected behind RAM, found before its end",
        ),
        (mark(9), SchemaMismatch, "at 0x0: VFIO: a mark expected, found 0xffffffffef100009"),
    ],
)
def test_what_qemu_would_not_write(wire: bytes, kind: type[FormatError], message: str) -> None:
    cursor = Cursor()
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        run(cursor, vfio.walk(cursor, b.PAGE), wire, 100)
