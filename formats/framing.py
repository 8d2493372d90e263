"""construct schemas of everything that frames a stream: headers, footers, commands.

Each schema describes one element whole. The parser first collects an element's bytes (it knows from the first few
how many there are), then parses them here. Arrays of integers go through :class:`U64Array`, because construct needs
177 us for 300 integers where ``struct`` needs 6, and a held device state is downtime of the guest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import construct as c

COUNTED_STRING: Final = c.PascalString(c.Int8ub, "ascii")

# savevm.c: qemu_savevm_state_header
FILE_HEADER: Final = c.Struct("magic" / c.Bytes(4), "version" / c.Int32ub)
FILE_HEADER_BYTES: Final = FILE_HEADER.sizeof()

# savevm.c: vmstate_configuration; subsections follow, unmarked
CONFIGURATION: Final = c.Struct("type" / c.Const(b"\x07"), "name" / c.PascalString(c.Int32ub, "ascii"))

# vmstate.c: vmstate_subsection_save
SUBSECTION_HEADER: Final = c.Struct("type" / c.Const(b"\x05"), "name" / COUNTED_STRING, "version_id" / c.Int32ub)

# savevm.c: save_section_header; START and FULL say who they are, PART and END only repeat the id
SECTION_HEADER: Final = c.Struct(
    "type" / c.Int8ub,
    "section_id" / c.Int32ub,
    "idstr" / COUNTED_STRING,
    "instance_id" / c.Int32ub,
    "version_id" / c.Int32ub,
)
PART_HEADER: Final = c.Struct("type" / c.Int8ub, "section_id" / c.Int32ub)

# savevm.c: save_section_footer
FOOTER: Final = c.Struct("type" / c.Int8ub, "section_id" / c.Int32ub)
FOOTER_BYTES: Final = FOOTER.sizeof()

# savevm.c: qemu_savevm_command_send
COMMAND_HEADER: Final = c.Struct("type" / c.Int8ub, "command" / c.Int16ub, "length" / c.Int16ub)
COMMAND_HEADER_BYTES: Final = COMMAND_HEADER.sizeof()

# savevm.c: qemu_savevm_state_complete_precopy_non_iterable, behind the EOF byte
VMDESC_HEADER: Final = c.Struct("eof" / c.Const(b"\x00"), "type" / c.Const(b"\x06"), "length" / c.Int32ub)
VMDESC_HEADER_BYTES: Final = VMDESC_HEADER.sizeof()


class U64Array(c.Construct):  # type: ignore[misc]  # construct has no type information
    """``count`` big-endian u64, as a tuple, by one ``struct`` call. ``count`` is a function of the context."""

    def __init__(self, count: Callable[[Any], int]) -> None:
        super().__init__()
        self.count = count

    def _parse(self, stream: Any, context: Any, path: str) -> tuple[int, ...]:
        n = self.count(context)
        data = c.stream_read(stream, 8 * n, path)
        return struct.unpack(f">{n}Q", data)

    def _build(self, obj: Sequence[int], stream: Any, _context: Any, path: str) -> Sequence[int]:
        c.stream_write(stream, struct.pack(f">{len(obj)}Q", *obj), 8 * len(obj), path)
        return obj
