"""Device sections that come before memory, because the destination must know of them first (virtio-mem).

A FULL section as any other, but sent while RAM is set up: before its START (QEMU 11.1) or behind it (10.0). It has no
length, and what describes it comes at the end of the stream. So its end is where its own footer is followed by an
element that can be the next one; the vmdesc then proves that this was right (:mod:`formats.device_tail`), before the
guest can run anywhere else. Its payload holds a bitmap that the guest has a say in; a guest that forges an end there
gets its own migration refused.

Mirrors ``migration/savevm.c: qemu_savevm_state_setup`` (``early_setup``; QEMU 8.0 to 11.1).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Generator
from typing import Final

from formats.configuration import MAX_NAME_BYTES, check_name
from formats.cursor import Cursor
from formats.device_tail import EarlyDevice
from formats.errors import LimitExceeded, quoted
from formats.events import EarlySection
from formats.framing import COMMAND_HEADER, COMMAND_HEADER_BYTES, FOOTER, FOOTER_BYTES, PART_HEADER
from formats.savevm import MigCommand, SectionType

# The bitmap of virtio-mem has a bit for each of its blocks of 1 MiB or more: 1 MiB for 8 TiB.
MAX_EARLY_BYTES: Final = 4 << 20

# type, be32 section_id, u8 n; behind the name be32 instance_id, be32 version_id
_BEFORE_NAME: Final = 1 + 4 + 1
_BEHIND_NAME: Final = struct.Struct(">II")
_PART_HEADER_BYTES: Final = PART_HEADER.sizeof()

_PRINTABLE: Final = bytes(range(0x20, 0x7F))


def read_early_section(
    cursor: Cursor, open_ids: Collection[int], max_name_bytes: int = MAX_NAME_BYTES
) -> Generator[None, None, EarlySection]:
    """Take the section, whose type byte is the next one. ``open_ids`` are those of the iterable sections.

    Raises :class:`LimitExceeded` if its name is too long, or its end is not found within :data:`MAX_EARLY_BYTES`.
    """
    at = cursor.begin()
    head = yield from cursor.read(_BEFORE_NAME)
    section_id = int.from_bytes(head[1:5], "big")
    check_name("section name", head[5], max_name_bytes, at)
    name = yield from cursor.read(head[5])
    numbers = yield from cursor.read(_BEHIND_NAME.size)
    instance_id, version_id = _BEHIND_NAME.unpack(numbers)
    idstr = name.decode("ascii", "replace")
    header = head + name + numbers
    footer = FOOTER.build({"type": SectionType.FOOTER, "section_id": section_id})

    data = bytearray()
    searched = 0  # no footer that could be the right one begins before
    while True:
        data += cursor.take_rest()
        follows: bool | None = False
        while (place := data.find(footer, searched)) >= 0:
            follows = _element_at(data, place + FOOTER_BYTES, open_ids)
            if follows is not False:
                break
            searched = place + 1
        if follows:
            break
        if place < 0:
            searched = max(searched, len(data) - FOOTER_BYTES + 1)
        if len(data) > MAX_EARLY_BYTES:
            raise LimitExceeded(
                f"device section {quoted(idstr)} before memory: its end expected within {MAX_EARLY_BYTES} bytes, "
                "found none",
                at,
            )
        yield from cursor.more()
    end = place + FOOTER_BYTES
    cursor.unread(bytes(data[end:]))
    cursor.end()  # it was noted as it came; here it is whole
    return EarlySection(at, header + bytes(data[:end]), section_id, EarlyDevice(idstr, instance_id, version_id, place))


def _element_at(data: bytearray, at: int, open_ids: Collection[int]) -> bool | None:
    """Whether an element can begin here; None if there are not enough bytes to tell."""
    here = data[at : at + _BEFORE_NAME]
    if not here:
        return None
    kind = here[0]
    if kind in (SectionType.START, SectionType.FULL):
        if len(here) < _BEFORE_NAME:
            return None
        name = data[at + _BEFORE_NAME : at + _BEFORE_NAME + here[5]]
        if not here[5] or name.translate(None, _PRINTABLE):
            return False
        return True if len(name) == here[5] else None
    if kind in (SectionType.PART, SectionType.END):
        if len(here) < _PART_HEADER_BYTES:
            return None
        return int.from_bytes(here[1:5], "big") in open_ids
    if kind == SectionType.COMMAND:
        if len(here) < COMMAND_HEADER_BYTES:
            return None
        return COMMAND_HEADER.parse(bytes(here)).command in frozenset(MigCommand)
    return False
