"""The configuration section: machine type and what both ends must agree on (``savevm.c: vmstate_configuration``).

    07 be32 len name[len] { 05 u8 n name[n] be32 version fields }

It has neither id nor footer, and its end is not marked: it ends where no subsection begins. Read from a cursor,
because the parser meets it in chunks.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from formats import events
from formats.cursor import Cursor
from formats.errors import LimitExceeded, SchemaMismatch, quoted
from formats.savevm import SectionType

# Machine types and section names are short ("virt-10.0", "0000:00:01.0/virtio-net"); the longest seen has 40 bytes.
# On the wire a section's name has at most 255; for the machine type QEMU itself allows any be32.
MAX_NAME_BYTES: Final = 255

# configuration/capabilities lists those that must match at both ends; QEMU has about 25 capabilities in all.
MAX_CAPABILITIES: Final = 64

# Shared memory stays where it is; every RAM block says its address (:mod:`formats.iterative.ram_blocks`).
IGNORE_SHARED: Final = "x-ignore-shared"

PAGE_BITS_RANGE: Final = range(10, 17)


def read_configuration(
    cursor: Cursor, max_name_bytes: int = MAX_NAME_BYTES
) -> Generator[None, None, events.Configuration]:
    """Take the section, whose type byte is the next one.

    Raises :class:`SchemaMismatch` on what QEMU would not write, :class:`LimitExceeded` on names or lists that are too
    long.
    """
    at = cursor.begin()
    yield from cursor.u8()
    length = yield from cursor.be32()
    check_name("machine type", length, max_name_bytes, at)
    machine = (yield from cursor.read(length)).decode("ascii", "replace")
    page_bits: int | None = None
    uuid: bytes | None = None
    capabilities: tuple[str, ...] = ()
    # QEMU writes each subsection at most once, and what is read here is kept until the end.
    seen: set[bytes] = set()
    while (yield from cursor.peek_u8()) == SectionType.SUBSECTION:
        yield from cursor.u8()
        name = yield from cursor.counted_string()
        if name in seen:
            raise SchemaMismatch(f"configuration: {name.decode('ascii', 'replace')} expected once, found again", at)
        seen.add(name)
        yield from cursor.be32()
        if name == b"configuration/target-page-bits":
            page_bits = yield from cursor.be32()
            if page_bits not in PAGE_BITS_RANGE:
                raise SchemaMismatch(f"target page bits of 10 to 16 expected, found {page_bits}", at)
        elif name == b"configuration/capabilities":
            capabilities = yield from _capabilities(cursor, at)
        elif name == b"configuration/uuid":
            uuid = yield from cursor.read(16)
        else:
            raise SchemaMismatch(f"configuration: unknown subsection {quoted(name.decode('ascii', 'replace'))}", at)
    return events.Configuration(at, cursor.end(), machine, page_bits, capabilities, uuid)


def check_name(what: str, length: int, limit: int, at: int) -> None:
    """Raise :class:`LimitExceeded` if a name of ``length`` bytes is longer than ``limit``; ``at`` is its offset."""
    if length > limit:
        raise LimitExceeded(f"{what} of at most {limit} bytes expected (limit name_bytes), found {length}", at)


def _capabilities(cursor: Cursor, at: int) -> Generator[None, None, tuple[str, ...]]:
    count = yield from cursor.be32()
    if count > MAX_CAPABILITIES:
        raise LimitExceeded(f"at most {MAX_CAPABILITIES} capabilities expected, found {count}", at)
    names: list[bytes] = []
    while len(names) < count:
        names += ((yield from cursor.counted_string()),)
    return tuple(name.decode("ascii", "replace") for name in names)
