"""Reading across chunk borders. The only file that knows about buffers.

Theory of operation
-------------------
The parser is a generator that suspends by a bare ``yield`` whenever the current chunk is used up, and is resumed once
the next chunk is there. So between two chunks nothing is ever "left over": a value that is cut by the border is
completed from the next chunk, and the bytes on either side belong to the event that is being read.

There are two ways to account for them, because guest memory must never be copied and never be delayed:

* an *element* (header, command, footer) is collected: ``begin()`` ... ``end()`` returns its bytes;
* *bulk* is passed on as it comes: between ``begin_bulk()`` and ``end_bulk()`` what was walked is cut off as a view of
  the chunk, at the latest when the chunk ends, even in the middle of a record's header.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import Final, TypeAlias

_BE32: Final = struct.Struct(">I")
_BE64: Final = struct.Struct(">Q")

# A step of the grammar: suspends with None while the chunk is used up, and returns a value in the end.
Steps: TypeAlias = Generator[None, None, None]


class Cursor:
    """A position in a stream that arrives in chunks.

    ``view`` is the current chunk and ``position`` the index of the next byte in it; walkers of bulk data use both
    directly. ``base`` is the stream offset of ``view[0]``.
    """

    __slots__ = ("_bulk", "_collected", "_mark", "base", "position", "view")

    def __init__(self) -> None:
        self.view = memoryview(b"")
        self.position = 0
        self.base = 0
        self._mark = 0
        self._collected: list[bytes] = []
        self._bulk: list[tuple[int, memoryview]] | None = None

    @property
    def offset(self) -> int:
        """Stream offset of the next byte."""
        return self.base + self.position

    @property
    def available(self) -> int:
        """Bytes of the current chunk that were not taken yet."""
        return len(self.view) - self.position

    def load(self, chunk: bytes | memoryview) -> None:
        """Make ``chunk`` the current one. The one before must be used up."""
        if self.available:
            raise AssertionError("a chunk was loaded before the last one was used up")
        self.base += len(self.view)
        self.view = memoryview(chunk)
        self.position = self._mark = 0

    def unload(self) -> None:
        """Let go of the chunk, which must be used up: its memory may be needed for the next one."""
        self.load(b"")

    def begin(self) -> int:
        """An element starts here. Returns its stream offset."""
        self._collected.clear()
        self._mark = self.position
        return self.offset

    def end(self) -> bytes:
        """The bytes since ``begin()``."""
        self._cut()
        raw = b"".join(self._collected)
        self._collected.clear()
        return raw

    def begin_bulk(self, pieces: list[tuple[int, memoryview]]) -> None:
        """Bulk starts here: from now on what is taken goes to ``pieces`` as (stream offset, view of the chunk)."""
        self._mark = self.position
        self._bulk = pieces

    def end_bulk(self) -> None:
        """Bulk ends here."""
        self._cut()
        self._bulk = None

    def more(self) -> Steps:
        """Suspend until there is at least one byte. What was taken of this chunk is accounted for."""
        while not self.available:
            self._cut()
            yield

    def _cut(self) -> None:
        piece = self.view[self._mark : self.position]
        if self._bulk is None:
            self._collected.append(bytes(piece))
        elif piece:
            self._bulk.append((self.base + self._mark, piece))
        self._mark = self.position

    def take_rest(self) -> memoryview:
        """Take all that is left of the chunk, as a view that no element accounts for."""
        rest = self.view[self.position :]
        self.position = self._mark = len(self.view)
        return rest

    def unread(self, data: bytes) -> None:
        """Give back ``data``, the bytes that were taken last: they come again. No element and no bulk has them."""
        if len(data) <= self.position:
            self.position -= len(data)
        else:
            self.base = self.offset - len(data)
            self.view = memoryview(data + bytes(self.view[self.position :]))
            self.position = 0
        self._mark = self.position

    def jump(self, offset: int) -> None:
        """Go on at stream offset ``offset``: what is left of the chunk is dropped, the next one has to be from there.

        For files, whose reader asks where to go on. What was taken so far is accounted for.
        """
        self._cut()
        self.view = memoryview(b"")
        self.base = offset
        self.position = self._mark = 0

    def peek_u8(self) -> Generator[None, None, int]:
        """The next byte, not taken."""
        yield from self.more()
        return self.view[self.position]

    def read(self, n: int) -> Generator[None, None, bytes]:
        """Take the next ``n`` bytes."""
        if self.available >= n:
            start = self.position
            self.position = start + n
            return bytes(self.view[start : start + n])
        parts: list[bytes] = []
        missing = n
        while missing:
            yield from self.more()
            part = bytes(self.view[self.position : self.position + missing])
            self.position += len(part)
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)

    def u8(self) -> Generator[None, None, int]:
        """Take one byte."""
        return (yield from self.read(1))[0]

    def be32(self) -> Generator[None, None, int]:
        """Take a big-endian u32."""
        value: int = _BE32.unpack((yield from self.read(4)))[0]
        return value

    def be64(self) -> Generator[None, None, int]:
        """Take a big-endian u64."""
        value: int = _BE64.unpack((yield from self.read(8)))[0]
        return value

    def counted_string(self) -> Generator[None, None, bytes]:
        """Take ``u8 n`` and ``n`` bytes (qemu-file.c: qemu_get_counted_string); returns the ``n`` bytes."""
        return (yield from self.read((yield from self.u8())))

    def skip(self, n: int) -> Steps:
        """Take ``n`` bytes without looking at them or keeping them."""
        while n > self.available:
            n -= self.available
            self.position = len(self.view)
            yield from self.more()
        self.position += n
