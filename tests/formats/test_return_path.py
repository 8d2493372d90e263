"""The return path's messages, as the destination writes them."""

from __future__ import annotations

import struct

import pytest

from formats.errors import FormatError
from formats.return_path import ReturnPathEvent, ReturnPathReader
from formats.savevm import ReturnPathMessage as Message

# Wire bytes, one comment per field; see rp_cmd_args in QEMU's migration/migration.c.
CASES = [
    (Message.SHUT, 0, b"\x00\x01\x00\x04\x00\x00\x00\x00"),
    (Message.SHUT, 1, b"\x00\x01\x00\x04\x00\x00\x00\x01"),
    (Message.PONG, 0x42, b"\x00\x02\x00\x04\x00\x00\x00\x42"),
    # start, len, name length, name
    (Message.REQ_PAGES_ID, None, b"\x00\x03\x00\x10" + bytes(8) + b"\x00\x00\x10\x00" + b"\x03ram"),
    (Message.REQ_PAGES, None, b"\x00\x04\x00\x0c" + bytes(8) + b"\x00\x00\x10\x00"),
    # name; then, outside len: size, bitmap, ending
    (
        Message.RECV_BITMAP,
        None,
        b"\x00\x05\x00\x04\x03ram" + struct.pack(">Q", 16) + b"\xff" * 16 + struct.pack(">Q", 0x0123456789ABCDEF),
    ),
    (
        Message.RECV_BITMAP,
        None,
        b"\x00\x05\x00\x04\x03ram" + struct.pack(">Q", 0) + struct.pack(">Q", 0x0123456789ABCDEF),
    ),
    (Message.RESUME_ACK, 1, b"\x00\x06\x00\x04\x00\x00\x00\x01"),
    (Message.SWITCHOVER_ACK, None, b"\x00\x07\x00\x00"),
]


@pytest.mark.parametrize(("message", "value", "wire"), CASES)
def test_a_message_whole_and_byte_by_byte(message: Message, value: int | None, wire: bytes) -> None:
    expected = ReturnPathEvent(message, value, 0)
    assert ReturnPathReader().feed(wire) == [expected]
    reader = ReturnPathReader()
    events = [event for byte in wire for event in reader.feed(bytes([byte]))]
    assert events == [expected]


@pytest.mark.parametrize(("message", "value", "wire"), CASES)
def test_no_prefix_of_a_message_is_a_message(message: Message, value: int | None, wire: bytes) -> None:
    for cut in range(len(wire)):
        assert ReturnPathReader().feed(wire[:cut]) == []


@pytest.mark.parametrize("cut", range(1, 200, 7))
def test_messages_in_a_row_have_their_offsets_however_they_are_cut(cut: int) -> None:
    stream = b"".join(wire for _, _, wire in CASES)
    reader = ReturnPathReader()
    events = [event for at in range(0, len(stream), cut) for event in reader.feed(stream[at : at + cut])]
    offsets = [sum(len(wire) for _, _, wire in CASES[:n]) for n in range(len(CASES))]
    assert events == [
        ReturnPathEvent(message, value, offset) for (message, value, _), offset in zip(CASES, offsets, strict=True)
    ]


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (b"\x00\x00\x00\x00", "at 0x0: return path: expected a message type from 1 to 7, found 0"),
        (b"\x00\x08\x00\x00", "at 0x0: return path: expected a message type from 1 to 7, found 8"),
        (b"\x00\x01\x00\x02", "at 0x0: return path: SHUT has 4 bytes, found 2"),
        (b"\x00\x03\x02\x01", "at 0x0: return path: REQ_PAGES_ID has at most 512 bytes, found 513"),
        (
            b"\x00\x05\x00\x04\x03ram" + bytes(8) + bytes(8),
            "at 0x10: return path: expected the bitmap's end 0x123456789abcdef, found 0x0",
        ),
    ],
)
def test_what_the_source_takes_for_an_error_is_one_and_ends_the_reading(wire: bytes, text: str) -> None:
    reader = ReturnPathReader()
    with pytest.raises(FormatError) as caught:
        reader.feed(wire)
    assert str(caught.value) == text
    assert reader.feed(CASES[0][2]) == []


def test_a_bitmap_of_a_large_guest_is_not_kept() -> None:
    reader = ReturnPathReader()
    size = 32 << 20
    assert reader.feed(b"\x00\x05\x00\x04\x03ram" + struct.pack(">Q", size)) == []
    chunk = bytes(1 << 20)
    for _ in range(32):
        assert reader.feed(chunk) == []
        assert len(reader._buffer) == 0
    assert reader.feed(struct.pack(">Q", 0x0123456789ABCDEF))[0].message is Message.RECV_BITMAP
