"""The head of a libvirt save image (``virsh save``, managedsave, a snapshot's memory): what stands before the stream.

    magic[16]  u32 version  u32 data_len  u32 was_running  u32 format  u32 cookieOffset  u32 unused[14]     92 bytes
    XML NUL [cookie NUL] zero padding                                                                 data_len bytes
    the migration stream, packed as ``format`` says                                                  to the file's end

The integers are in the byte order of the host that saved; libvirt swaps them if ``version`` is larger than the one it
knows. ``cookieOffset`` counts from the end of the 92 bytes, 0 means that there is no cookie. The padding (64 KiB) is
room for ``virsh save-image-edit``. Nothing here refers to the length of the stream, so the head stays as it is,
byte by byte, whatever becomes of the stream.

Sources: libvirt ``src/qemu/qemu_saveimage.[ch]``, ``qemu_saveimage_format.h`` (0.8 to 11; sparse since 11.2).
What it is not: it does not unpack, and it does not read the XML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal

import construct as c

from formats.errors import LimitExceeded, SchemaMismatch, TruncatedStream, UnsupportedStream

MAGIC: Final = b"LibvirtQemudSave"
MAGIC_PARTIAL: Final = b"LibvirtQemudPart"
MAGIC_BYTES: Final = len(MAGIC)
VERSION: Final = 2

# The XML and the cookie, a few KiB each, and 64 KiB of padding. libvirt's own messages carry at most 4 MiB of XML.
MAX_DATA_BYTES: Final = 16 << 20

ByteOrder = Literal["little", "big"]


def _header(integer: c.FormatField) -> c.Struct:
    return c.Struct(
        "magic" / c.Bytes(MAGIC_BYTES),
        "version" / integer,
        "data_len" / integer,
        "was_running" / integer,
        "format" / integer,
        "cookie_offset" / integer,
        "unused" / c.Bytes(14 * 4),
    )


_HEADERS: Final[dict[ByteOrder, c.Struct]] = {"little": _header(c.Int32ul), "big": _header(c.Int32ub)}
HEADER_BYTES: Final[int] = _HEADERS["little"].sizeof()


class SaveFormat(IntEnum):
    """QEMU_SAVE_FORMAT_*: how the stream is packed. The member's name in small letters is libvirt's own."""

    RAW = 0
    GZIP = 1
    BZIP2 = 2
    XZ = 3
    LZOP = 4
    ZSTD = 5
    SPARSE = 6  # the stream is a mapped-ram file whose offsets count from the image's first byte


@dataclass(frozen=True, slots=True)
class SaveImageHeader:
    """The 92 bytes. ``data_bytes`` follow, then the stream, at ``stream_offset`` of the file."""

    raw: bytes = field(repr=False)
    byte_order: ByteOrder
    data_bytes: int
    was_running: bool
    format: SaveFormat
    cookie_offset: int

    @property
    def stream_offset(self) -> int:
        """File offset of the stream's first byte."""
        return HEADER_BYTES + self.data_bytes

    def xml_of(self, data: bytes) -> bytes:
        """The domain's XML out of the ``data_bytes`` behind the header, without its NUL and the padding."""
        return data[: self.cookie_offset or len(data)].partition(b"\0")[0]


def is_save_image(head: bytes) -> bool:
    """Whether a file with these first bytes is a save image, complete or not."""
    return head.startswith((MAGIC, MAGIC_PARTIAL))


def parse_header(raw: bytes) -> SaveImageHeader:
    """The header out of a file's first :data:`HEADER_BYTES` bytes.

    Raises :class:`TruncatedStream`, :class:`UnsupportedStream` for an interrupted save and for what is not known,
    :class:`SchemaMismatch` and :class:`LimitExceeded`.
    """
    if raw.startswith(MAGIC_PARTIAL):
        raise UnsupportedStream(
            "a save image of a save that was interrupted or still goes on "
            f"({MAGIC_PARTIAL.decode()}): libvirt would not restore it either"
        )
    if not raw.startswith(MAGIC):
        raise SchemaMismatch(f"a save image expected ({MAGIC.decode()}), found {raw[:MAGIC_BYTES]!r}")
    if len(raw) < HEADER_BYTES:
        raise TruncatedStream(f"a save image's header of {HEADER_BYTES} bytes expected, found {len(raw)}")
    order: ByteOrder = "little" if int.from_bytes(raw[16:20], "little") <= int.from_bytes(raw[16:20], "big") else "big"
    found = _HEADERS[order].parse(raw)
    if found.version != VERSION:
        raise UnsupportedStream(f"save image version {VERSION} expected, found {found.version}")
    try:
        packed = SaveFormat(found.format)
    except ValueError:
        known = ", ".join(f"{one.value} {one.name.lower()}" for one in SaveFormat)
        raise UnsupportedStream(f"a save image format of {known} expected, found {found.format}") from None
    if not found.data_len:
        raise SchemaMismatch("a save image with the domain's XML expected, found an empty one (data length 0)")
    if found.data_len > MAX_DATA_BYTES:
        raise LimitExceeded(f"a save image's XML and cookie of at most {MAX_DATA_BYTES} bytes expected, "
                            f"found {found.data_len}")  # fmt: skip
    if found.cookie_offset >= found.data_len:
        raise SchemaMismatch(
            f"a save image's cookie within {found.data_len} bytes expected, found it at {found.cookie_offset}"
        )
    return SaveImageHeader(raw, order, found.data_len, bool(found.was_running), packed, found.cookie_offset)
