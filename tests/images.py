"""Files that hold a stream, built with struct and real compressors: libvirt save images and mapped-ram files.

Never with ``formats``, which they test. Mirrors libvirt's ``qemu_saveimage.c`` and QEMU's ``ram.c``.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence

from tests import builders as b

XML = b"<domain type='kvm'>\n  <name>little</name>\n  <uuid>0</uuid>\n</domain>\n"
COOKIE = b"<cookie/>\n"
PADDING = 64 << 10
MIB = 1 << 20


def _program(name: str) -> Callable[[bytes], bytes]:
    return lambda data: subprocess.run([name, "-c"], input=data, capture_output=True, check=True).stdout


FORMATS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "raw": (0, bytes),
    "gzip": (1, gzip.compress),
    "bzip2": (2, bz2.compress),
    "xz": (3, lzma.compress),
    "lzop": (4, _program("lzop")),
    "zstd": (5, _program("zstd")),
}


def image_head(
    number: int,
    *,
    magic: bytes = b"LibvirtQemudSave",
    order: str = "<",
    cookie: bytes | None = COOKIE,
    version: int = 2,
) -> bytes:
    """Header, XML, cookie and padding of an image of format ``number``."""
    data = XML + b"\0" + (b"" if cookie is None else cookie + b"\0") + bytes(PADDING)
    offset = 0 if cookie is None else len(XML) + 1
    return magic + struct.pack(f"{order}5I56x", version, len(data), 1, number, offset) + data


def save_image(kind: str, stream: bytes) -> bytes:
    """A whole save image."""
    number, pack = FORMATS[kind]
    return image_head(number) + pack(stream)


Blocks = Mapping[bytes, tuple[int, Mapping[int, bytes]]]
BLOCKS: Blocks = {
    b"mach-virt.ram": (2 * MIB, {0: b"\xa5" * b.PAGE, 300: b"\x5a" * b.PAGE}),
    b"/rom@etc/acpi/rsdp": (b.PAGE, {0: b"\x11" * b.PAGE}),
}
"""Size in bytes of each block, and the pages of it that are not zero. The last ends where a chunk of 1 MiB does."""


def mapped_ram(
    head: bytes = b"",
    blocks: Blocks = BLOCKS,
    devices: Sequence[b.Device] | None = None,
    shared: Mapping[bytes, int] | None = None,
) -> bytes:
    """A mapped-ram file with ``head`` before the stream; with ``shared`` memory that is not in it, x-ignore-shared."""
    capabilities = [b"mapped-ram"] if shared is None else [b"x-ignore-shared", b"mapped-ram"]
    gpa = b"" if shared is None else b.be64(0x40000000)
    shared = shared or {}
    out = bytearray(head + b.MAGIC + b.configuration(capabilities=capabilities))
    out += b"\x01" + b.be32(2) + b.counted(b"ram") + b.be32(0) + b.be32(4)
    out += b.be64(sum(size for size, _ in blocks.values()) + sum(shared.values()) | b.FLAG_MEM_SIZE)
    for name, size in shared.items():
        out += b.counted(name) + b.be64(size) + gpa + struct.pack(">IQQQ", 1, b.PAGE, 0, 0)
    for name, (size, pages) in blocks.items():
        out += b.counted(name) + b.be64(size) + gpa
        bitmap = bytearray(-(-size // b.PAGE // 64) * 8)
        for number in pages:
            bitmap[number // 8] |= 1 << number % 8
        bitmap_offset = len(out) + 28
        pages_offset = -(-(bitmap_offset + len(bitmap)) // MIB) * MIB
        out += struct.pack(">IQQQ", 1, b.PAGE, bitmap_offset, pages_offset) + bitmap
        out += bytes(pages_offset + size - len(out))
        for number, page in pages.items():
            out[pages_offset + number * b.PAGE : pages_offset + (number + 1) * b.PAGE] = page
    out += b.EOS + b.footer(2) + b.part(2, b.EOS) + b.SWITCHOVER_START + b.end(2, b.EOS)
    return bytes(out + b.tail(b.devices(2) if devices is None else devices))
