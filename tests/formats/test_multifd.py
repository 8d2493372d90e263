"""Packets of a multifd channel: where they are, what they say, and where nobody knows any more."""

from __future__ import annotations

import os

import pytest

from formats.errors import SchemaMismatch
from formats.multifd import Compression, DeviceStatePacket, MemoryPacket, MultifdPacket, MultifdReader
from tests import builders as b

CHANNEL = (
    b.multifd_packet(2, zero=1)
    + os.urandom(2 * b.PAGE)
    + b.multifd_packet(0, flags=b.MULTIFD_SYNC, size=77)  # QEMU 7.2 leaves the last size standing
    + b.multifd_packet(3, flags=b.MULTIFD_ZSTD, size=1000)
    + os.urandom(1000)
    + b.multifd_device_state(b"0000:00:03.0/vfio", 5000)
    + os.urandom(5000)
    + b.multifd_packet(1, flags=b.MULTIFD_SYNC)  # before 9.0
    + bytes(b.PAGE)
)


def read(data: bytes, step: int, page_size: int = b.PAGE) -> list[MultifdPacket]:
    reader = MultifdReader(page_size)
    return [packet for at in range(0, len(data), step) for packet in reader.feed(data[at : at + step])]


@pytest.mark.parametrize("step", [1, 7, 1343, 1 << 20])
def test_packets_in_any_chunking(step: int) -> None:
    pages, sync, packed, state, old = read(CHANNEL, step)
    offsets = (0, b.PAGE, 2 * b.PAGE)
    assert pages == MemoryPacket(Compression.NONE, b.PAGE, 128, 2, 1, 2 * b.PAGE, offsets, 2 * b.PAGE)
    assert sync == MemoryPacket(Compression.NONE, b.PAGE, 128, 0, 0, 77, (), 0)
    assert packed == MemoryPacket(Compression.ZSTD, b.PAGE, 128, 3, 0, 1000, offsets, 1000)
    assert state == DeviceStatePacket("0000:00:03.0/vfio", 0, 5000)
    assert isinstance(old, MemoryPacket)
    assert (old.normal_pages, old.payload_bytes, old.page_count) == (1, b.PAGE, 128)


def test_pages_of_another_size() -> None:
    (packet,) = read(b.multifd_packet(2, pages_alloc=8, page_size=65536), 100, 65536)
    assert isinstance(packet, MemoryPacket)
    assert (packet.page_count, packet.payload_bytes, packet.offsets) == (8, 131072, (0, 65536))


def test_a_reader_says_how_much_it_wants_to_see() -> None:
    reader = MultifdReader(b.PAGE)
    assert (reader.header_left, reader.payload_left) == (12, 0)
    packet = b.multifd_packet(2)
    assert list(reader.feed(packet[:12])) == []
    assert (reader.header_left, reader.payload_left) == (308 + 8 * 128, 0)
    assert len(list(reader.feed(packet[12:]))) == 1
    assert (reader.header_left, reader.payload_left) == (12, 2 * b.PAGE)
    reader.skip(b.PAGE)
    assert list(reader.feed(bytes(b.PAGE))) == []
    assert (reader.header_left, reader.payload_left) == (12, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"QEVM" + bytes(8), "magic 11223344 and version 1 expected, found 5145564d and 0"),
        (b.multifd_init()[:4] + b.be32(2) + bytes(4), "found 11223344 and 2"),
        (b.multifd_packet(1, flags=3 << 1), "one compression expected, found flags 0x6"),
        (b.multifd_device_state(b"x" * 256, 1), "name of a device expected to end, found 256 bytes without a zero"),
    ],
)
def test_what_is_no_packet(data: bytes, message: str) -> None:
    first = b.multifd_packet(1) + bytes(b.PAGE)
    with pytest.raises(SchemaMismatch, match=message) as caught:
        read(first + data, 50)
    assert caught.value.offset == len(first)


def test_pages_that_a_packet_has_no_room_for_are_not_looked_for() -> None:
    (packet,) = read(b.multifd_packet(1 << 20, zero=1 << 31, size=0, offsets=[]), 1 << 20)
    assert isinstance(packet, MemoryPacket)
    assert len(packet.offsets) == 128
    assert packet.payload_bytes == b.PAGE << 20
