"""Cursor: values across chunk borders, and the accounting of every byte."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from formats.cursor import Cursor


def drive(steps: Generator[None, None, Any], cursor: Cursor, chunks: list[bytes]) -> Any:
    """Run ``steps`` to its end, loading the next chunk at each suspension."""
    pending = iter(chunks)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value
        cursor.load(next(pending))


READS: list[tuple[Callable[[Cursor], Any], bytes, Any]] = [
    (lambda c: c.u8(), b"\x2a", 42),
    (lambda c: c.be32(), b"\x00\x01\x02\x03", 0x00010203),
    (lambda c: c.be64(), bytes(range(8)), 0x0001020304050607),
    (lambda c: c.counted_string(), b"\x03ram", b"ram"),
    (lambda c: c.read(5), b"hello", b"hello"),
    (lambda c: c.read(0), b"", b""),
]


@pytest.mark.parametrize(("read", "wire", "value"), READS)
def test_a_value_whole_and_byte_by_byte(read: Callable[[Cursor], Any], wire: bytes, value: Any) -> None:
    whole = Cursor()
    whole.load(wire)
    assert drive(read(whole), whole, []) == value
    cut = Cursor()
    assert drive(read(cut), cut, [bytes([b]) for b in wire]) == value
    assert cut.offset == len(wire)


def test_peek_takes_nothing() -> None:
    cursor = Cursor()
    assert drive(cursor.peek_u8(), cursor, [b"", b"\x07\x08"]) == 7
    assert (cursor.offset, cursor.available) == (0, 2)


def test_an_element_is_collected_over_three_chunks() -> None:
    cursor = Cursor()
    cursor.load(b"xx")
    cursor.position = 1

    def element() -> Generator[None, None, tuple[int, bytes]]:
        at = cursor.begin()
        yield from cursor.read(6)
        return at, cursor.end()

    assert drive(element(), cursor, [b"abc", b"de", b"fgh"][:3]) == (1, b"xabcde")
    assert cursor.available == 0


def test_bulk_leaves_as_views_of_the_chunks_even_inside_a_header() -> None:
    cursor = Cursor()
    first, second = b"h" + b"12345678", b"9abc"
    pieces: list[tuple[int, memoryview]] = []
    cursor.load(first)
    cursor.position = 1

    def bulk() -> Generator[None, None, None]:
        cursor.begin_bulk(pieces)
        yield from cursor.skip(6)
        yield from cursor.read(4)  # cut by the chunk's end
        cursor.end_bulk()

    drive(bulk(), cursor, [second])
    assert [(at, bytes(piece)) for at, piece in pieces] == [(1, b"12345678"), (9, b"9a")]
    assert pieces[0][1].obj is first
    assert pieces[1][1].obj is second
    assert cursor.offset == 11


def test_skip_over_many_chunks() -> None:
    cursor = Cursor()
    drive(cursor.skip(7), cursor, [b"ab", b"", b"cde", b"fgh"])
    assert (cursor.offset, bytes(cursor.take_rest())) == (7, b"h")
    assert cursor.available == 0


def test_a_chunk_that_is_not_used_up_is_a_bug() -> None:
    cursor = Cursor()
    cursor.load(b"a")
    with pytest.raises(AssertionError, match="before the last one was used up"):
        cursor.load(b"b")


def test_a_jump_drops_what_is_left_and_accounts_for_what_was_taken() -> None:
    cursor = Cursor()
    pieces: list[tuple[int, memoryview]] = []
    cursor.load(b"0123456789")
    cursor.begin_bulk(pieces)
    steps = cursor.read(4)
    with pytest.raises(StopIteration):
        next(steps)
    cursor.jump(100)
    assert (cursor.offset, cursor.available) == (100, 0)
    cursor.load(b"abc")
    assert cursor.offset == 100
    with pytest.raises(StopIteration):
        next(cursor.skip(3))
    cursor.end_bulk()
    assert [(offset, bytes(piece)) for offset, piece in pieces] == [(0, b"0123"), (100, b"abc")]


@pytest.mark.parametrize("first", [b"abcdef", b"abc"])
def test_what_is_given_back_comes_again(first: bytes) -> None:
    """In the chunk that holds it, and from the one before."""
    cursor = Cursor()
    cursor.load(first)
    taken = bytes(cursor.take_rest())
    cursor.load(b"ghi")
    taken += bytes(cursor.take_rest())
    again = taken[-5:]
    cursor.unread(again)
    assert (cursor.offset, cursor.available) == (len(first) + 3 - 5, 5)
    cursor.begin()
    with pytest.raises(StopIteration) as read:
        next(cursor.read(5))
    assert (read.value.value, cursor.end()) == (again, again)
    cursor.unread(b"hi")
    assert (cursor.offset, cursor.available) == (len(first) + 1, 2)
    cursor.take_rest()
    cursor.load(b"j")
    assert cursor.offset == len(first) + 3
