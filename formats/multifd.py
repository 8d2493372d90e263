"""The packets of a multifd channel, behind its 64 bytes of greeting (:mod:`formats.channel`): headers, no page.

    be32 magic, version, flags                                             12 bytes
    memory        be32 pages_alloc, normal_pages, next_packet_size, be64 packet_num, be32 zero_pages, be32 unused,
                  be64 unused[3], ramblock[256], be64 offset[page_count]   308 + 8 * page_count bytes; then the pages
    device state  idstr[256], be32 instance_id, next_packet_size           264 bytes; then the data

``page_count`` is 512 KiB over the target's page size. Uncompressed, QEMU reads ``normal_pages`` pages and never looks
at ``next_packet_size``; compressed, it reads ``next_packet_size`` bytes. Mirrors ``migration/multifd.h``, ``multifd.c:
multifd_recv_thread`` and ``multifd-nocomp.c: multifd_ram_unfill_packet`` (QEMU 7.2 to 11.1; before 9.0 there are no
``zero_pages``, and the pages of a packet come with its SYNC flag; before 10.0 there is no device state).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from formats.channel import check_multifd
from formats.errors import SchemaMismatch

# MULTIFD_PACKET_SIZE: what one packet's pages take at most, uncompressed.
PACKET_BYTES: Final = 512 << 10

_HEADER: Final = struct.Struct(">4sII")
_MEMORY: Final = struct.Struct(">IIIQI28x256s")
_DEVICE_STATE: Final = struct.Struct(">256sII")

_COMPRESSION: Final = 0x1F << 1
_DEVICE_STATE_FLAG: Final = 1 << 6


class Compression(StrEnum):
    """What the pages are packed with; QEMU's parameter ``multifd-compression``."""

    NONE = "none"
    ZLIB = "zlib"
    ZSTD = "zstd"
    QPL = "qpl"
    UADK = "uadk"
    QATZIP = "qatzip"


_COMPRESSIONS: Final = {
    0: Compression.NONE,
    1 << 1: Compression.ZLIB,
    2 << 1: Compression.ZSTD,
    4 << 1: Compression.QPL,
    8 << 1: Compression.UADK,
    16 << 1: Compression.QATZIP,
}


@dataclass(frozen=True, slots=True)
class MemoryPacket:
    """Pages of one RAM block. ``next_packet_size`` and ``payload_bytes`` in bytes; offsets are the block's.

    ``payload_bytes`` is what QEMU reads behind it, whatever ``next_packet_size`` says.
    """

    compression: Compression
    page_size: int
    pages_alloc: int
    normal_pages: int
    zero_pages: int
    next_packet_size: int
    offsets: tuple[int, ...]
    payload_bytes: int

    @property
    def page_count(self) -> int:
        """How many pages a packet has room for."""
        return PACKET_BYTES // self.page_size


@dataclass(frozen=True, slots=True)
class DeviceStatePacket:
    """A device's own data (VFIO), ``payload_bytes`` of it."""

    idstr: str
    instance_id: int
    payload_bytes: int


MultifdPacket: TypeAlias = MemoryPacket | DeviceStatePacket


class MultifdReader:
    """Finds the packets in a channel's bytes.

    ``payload_left`` are the bytes that come next and mean nothing here; ``header_left`` those of a header.

    :param page_size: the target's, in bytes.
    """

    def __init__(self, page_size: int) -> None:
        self.payload_left = 0
        self._page_size = page_size
        self._room = PACKET_BYTES // page_size  # offsets in a header
        self._head = bytearray()
        self._wanted = _HEADER.size
        self._offset = 0  # in the channel, behind the greeting

    @property
    def header_left(self) -> int:
        """Bytes of a header that are still to come before the next decision."""
        return self._wanted - len(self._head)

    def skip(self, size: int) -> None:
        """``size`` bytes of payload have passed; no more than there are left."""
        self.payload_left -= size
        self._offset += size

    def feed(self, data: bytes | memoryview) -> Iterator[MultifdPacket]:
        """The packets whose headers end in ``data``, which is read as far as they are asked for: ask for all.

        :raises SchemaMismatch: this is no header that any QEMU reads, so nobody knows where the next one is.
        """
        position = 0
        while position < len(data):
            if self.payload_left:
                size = min(self.payload_left, len(data) - position)
                self.skip(size)
            else:
                size = min(self.header_left, len(data) - position)
                self._head += data[position : position + size]
                self._offset += size
                if not self.header_left:
                    packet = self._header_ends()
                    if packet is not None:
                        yield packet
            position += size

    def _header_ends(self) -> MultifdPacket | None:
        magic, version, flags = _HEADER.unpack_from(self._head)
        if len(self._head) == _HEADER.size:
            check_multifd("packet", magic, version, self._offset - len(self._head))
            self._wanted += _DEVICE_STATE.size if flags & _DEVICE_STATE_FLAG else _MEMORY.size + 8 * self._room
            return None
        packet = self._device_state() if flags & _DEVICE_STATE_FLAG else self._memory(flags)
        self.payload_left = packet.payload_bytes
        self._head.clear()
        self._wanted = _HEADER.size
        return packet

    def _device_state(self) -> DeviceStatePacket:
        name, instance_id, size = _DEVICE_STATE.unpack_from(self._head, _HEADER.size)
        if b"\0" not in name:
            raise self._mismatch("name of a device expected to end, found 256 bytes without a zero")
        return DeviceStatePacket(name.partition(b"\0")[0].decode("ascii", "replace"), instance_id, size)

    def _memory(self, flags: int) -> MemoryPacket:
        compression = _COMPRESSIONS.get(flags & _COMPRESSION)
        if compression is None:
            raise self._mismatch(f"one compression expected, found flags {flags:#x}")
        pages_alloc, normal, size, _, zero, _ = _MEMORY.unpack_from(self._head, _HEADER.size)
        # Without pages QEMU reads nothing; before 9.0 the size of the last packet is left standing in such a one.
        packed = size if normal else 0
        payload = normal * self._page_size if compression is Compression.NONE else packed
        offsets = struct.unpack_from(f">{min(normal + zero, self._room)}Q", self._head, _HEADER.size + _MEMORY.size)
        return MemoryPacket(compression, self._page_size, pages_alloc, normal, zero, size, offsets, payload)

    def _mismatch(self, text: str) -> SchemaMismatch:
        return SchemaMismatch(f"multifd packet: {text}", self._offset - len(self._head))
