"""The block list: what a block may have besides its name and size, and how that is seen without being told."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.cursor import Cursor
from formats.errors import FormatError, LimitExceeded, SchemaMismatch
from formats.iterative.ram_blocks import MAX_BLOCKS, PLAIN, BlockFields, BlockList, read_block_list
from tests import builders as b
from tests.walking import run

Block = tuple[bytes, int, int | None]
"""Name, used length, and page size if it is on the wire."""


def wire_of(blocks: Sequence[Block], gpa: bytes = b"") -> bytes:
    return b"".join(
        b.counted(name) + b.be64(size) + (b"" if page is None else b.be64(page)) + gpa for name, size, page in blocks
    )


def read(wire: bytes, total: int, fields: BlockFields, step: int) -> tuple[BlockList, int]:
    cursor = Cursor()
    found = run(cursor, read_block_list(cursor, total, b.PAGE, fields), wire, step)
    return found, cursor.offset


names = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"\0", b"-"))
pages = st.sampled_from([None, None, 1 << 16, 1 << 21, 1 << 30])
blocks = st.lists(st.tuples(names, st.integers(1, 1 << 20).map(lambda n: n * b.PAGE), pages), min_size=1, max_size=6)


@given(blocks, st.sampled_from([1, 3, 1 << 20]))
def test_any_of_the_blocks_may_have_a_page_size(list_: list[Block], step: int) -> None:
    wire = wire_of(list_)
    found, end = read(wire + b.EOS, sum(size for _, size, _ in list_), BlockFields(page_size=True), step)
    assert found.blocks == tuple((name.decode("ascii", "replace"), size) for name, size, _ in list_)
    if list_[-1][2] is None:
        assert (found.record, end) == (b.FLAG_EOS, len(wire) + 8)
    else:
        assert (found.record, end) == (None, len(wire))


@given(blocks, st.sampled_from([1, 3, 1 << 20]))
def test_every_block_has_an_address_where_shared_memory_stays(list_: list[Block], step: int) -> None:
    plain = [(name, size, None) for name, size, _ in list_]
    wire = wire_of(plain, gpa=b.be64(0x10))  # an address that looks like EOS
    found, end = read(wire + b.EOS, sum(size for _, size, _ in plain), BlockFields(gpa=True), step)
    assert (len(found.blocks), found.record, end) == (len(plain), None, len(wire))


HUGE = BlockFields(page_size=True)


@pytest.mark.parametrize(
    ("wire", "total", "fields", "kind", "message"),
    [
        (
            wire_of([(b"a", b.PAGE, 3 << 20), (b"b", b.PAGE, None)]),
            2 * b.PAGE,
            HUGE,
            SchemaMismatch,
            "RAM block list: a page size expected for block 'a', found 0x300000",
        ),
        (
            wire_of([(b"a", b.PAGE, 1 << 11), (b"b", b.PAGE, None)]),
            2 * b.PAGE,
            HUGE,
            SchemaMismatch,
            "RAM block list: a page size expected for block 'a', found 0x800",
        ),
        (
            wire_of([(b"a", b.PAGE, 1 << 48)]),
            b.PAGE,
            HUGE,
            SchemaMismatch,
            "RAM block list: a page size expected for block 'a', found 0x1000000000000",
        ),
        (wire_of([(b"a", b.PAGE, 1 << 21)]) + b.counted(b"b"), 2 * b.PAGE, PLAIN, SchemaMismatch, "empty block name"),
        (wire_of([(b"a", b.PAGE, None)]), 100, PLAIN, SchemaMismatch, "at most 0x64 bytes left of the total"),
        (
            wire_of([(b"a", 0, None)]) * (MAX_BLOCKS + 1),
            1,
            PLAIN,
            LimitExceeded,
            f"RAM block list: more than {MAX_BLOCKS} blocks",
        ),
    ],
)
def test_what_qemu_would_not_write(
    wire: bytes, total: int, fields: BlockFields, kind: type[FormatError], message: str
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        read(wire, total, fields, len(wire))
