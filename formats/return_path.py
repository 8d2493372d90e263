"""The return path: messages from the destination to the source, on the main channel's reverse direction.

    message := be16 type  be16 len  data[len]
    RECV_BITMAP is followed by  be64 size  bitmap[size]  be64 0x0123456789abcdef,  which its len does not count

Mirrors ``migration/migration.c: rp_cmd_args`` and ``source_return_path_thread``, and ``migration/ram.c:
ramblock_recv_bitmap_send`` for the bitmap. Identical from QEMU 7.2 to 10.2, except that SWITCHOVER_ACK came with 8.1.

Only an observer: it looks at copies of what passes by and says what was said. It writes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from formats.errors import FormatError
from formats.savevm import ReturnPathMessage

_HEADER: Final = struct.Struct(">HH")
_BE32: Final = struct.Struct(">I")
_BE64: Final = struct.Struct(">Q")

# The source reads a message into buf[512] and takes a longer one for an error (source_return_path_thread).
MAX_MESSAGE_BYTES: Final = 512
RECV_BITMAP_ENDING: Final = 0x0123456789ABCDEF

# Bytes of data, None where they vary: rp_cmd_args.
_LENGTHS: Final[dict[ReturnPathMessage, int | None]] = {
    ReturnPathMessage.SHUT: 4,
    ReturnPathMessage.PONG: 4,
    ReturnPathMessage.REQ_PAGES_ID: None,
    ReturnPathMessage.REQ_PAGES: 12,
    ReturnPathMessage.RECV_BITMAP: None,
    ReturnPathMessage.RESUME_ACK: 4,
    ReturnPathMessage.SWITCHOVER_ACK: 0,
}


@dataclass(frozen=True, slots=True)
class ReturnPathEvent:
    """One message. ``value`` is its be32 for SHUT (0 is success), PONG and RESUME_ACK, otherwise ``None``."""

    message: ReturnPathMessage
    value: int | None
    offset: int


class ReturnPathReader:
    """Feed it the return path in any chunking; it gives an event for each whole message.

    It holds at most one message (516 bytes), and none of a bitmap.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._offset = 0  # of _buffer[0] in the return path
        self._messages = self._read()
        self._dead = False

    def feed(self, chunk: bytes) -> list[ReturnPathEvent]:
        """Messages that this chunk completes.

        :raises FormatError: an unknown type or a wrong length, as the source would judge; nothing can be read after it.
        """
        if self._dead:
            return []
        self._buffer += chunk
        events = []
        try:
            while (event := next(self._messages)) is not None:
                events.append(event)
        except FormatError:
            self._dead = True
            raise
        return events

    def _read(self) -> Iterator[ReturnPathEvent | None]:
        """The grammar. Yields an event, or None where more bytes are needed."""
        while True:
            while len(self._buffer) < _HEADER.size:
                yield None
            offset = self._offset
            kind, length = _HEADER.unpack_from(self._buffer)
            message = _message(kind, length, offset)
            while len(self._buffer) < _HEADER.size + length:
                yield None
            data = self._take(_HEADER.size + length)[_HEADER.size :]
            if message is ReturnPathMessage.RECV_BITMAP:
                while len(self._buffer) < _BE64.size:
                    yield None
                (size,) = _BE64.unpack(self._take(_BE64.size))
                yield from self._pass_over(size)
                while len(self._buffer) < _BE64.size:
                    yield None
                where = self._offset
                (ending,) = _BE64.unpack(self._take(_BE64.size))
                if ending != RECV_BITMAP_ENDING:
                    message_text = f"return path: expected the bitmap's end {RECV_BITMAP_ENDING:#x}, found {ending:#x}"
                    raise FormatError(message_text, where)
            has_value = _LENGTHS[message] == _BE32.size
            yield ReturnPathEvent(message, _BE32.unpack(data)[0] if has_value else None, offset)

    def _pass_over(self, count: int) -> Iterator[None]:
        while count:
            step = min(count, len(self._buffer))
            self._take(step)
            count -= step
            if count:
                yield None

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._offset += count
        return data


def _message(kind: int, length: int, offset: int) -> ReturnPathMessage:
    try:
        message = ReturnPathMessage(kind)
    except ValueError:
        raise FormatError(f"return path: expected a message type from 1 to 7, found {kind}", offset) from None
    expected = _LENGTHS[message]
    if expected is not None and length != expected:
        raise FormatError(f"return path: {message.name} has {expected} bytes, found {length}", offset)
    if length > MAX_MESSAGE_BYTES:
        raise FormatError(f"return path: {message.name} has at most {MAX_MESSAGE_BYTES} bytes, found {length}", offset)
    return message
