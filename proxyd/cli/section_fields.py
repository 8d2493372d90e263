"""A device section's fields, as the vmdesc describes them: name, place, bytes. What they mean only QEMU knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from formats.device_tail import DeviceSection
    from formats.events import DeviceTail
    from formats.vmdesc import Field, Subsection

# A field that is longer is shown by its size alone: it is a table or a buffer, not a number.
MAX_SHOWN_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class SectionField:
    """One field. ``offset`` in the stream; ``size`` in bytes, of one element where ``array_len`` is given."""

    name: str
    type: str
    offset: int
    size: int
    array_len: int | None
    data: bytes | None

    def to_json_dict(self) -> dict[str, Any]:
        """For ``--json``: the bytes as hex."""
        return {
            "name": self.name,
            "type": self.type,
            "offset": self.offset,
            "size": self.size,
            "array_len": self.array_len,
            "data": None if self.data is None else self.data.hex(),
        }


def version_of(tail: DeviceTail, section: DeviceSection) -> int:
    """A section's version by its header: the last number before the payload. Old-style vmdesc entries have none."""
    return int.from_bytes(tail.raw[section.payload_start - 4 : section.payload_start], "big")


def fields_in(tail: DeviceTail, section: DeviceSection) -> list[SectionField]:
    """The section's fields in stream order, those of subsections behind the section's own, with their name before."""
    placed = _placed(section.device.fields, section.device.subsections, "", section.payload_start)
    return [_field(tail, name, field, position) for name, field, position in placed]


def _placed(
    fields: tuple[Field, ...], subsections: tuple[Subsection, ...], prefix: str, position: int
) -> Iterator[tuple[str, Field, int]]:
    for field in fields:
        index = "" if field.index is None else f"[{field.index}]"
        yield f"{prefix}{field.name}{index}", field, position
        position += field.total_size
    for sub in subsections:
        header = 1 + 1 + len(sub.vmsd_name) + 4
        yield from _placed(sub.fields, sub.subsections, f"{sub.vmsd_name}: ", position + header)
        position += sub.wire_size


def _field(tail: DeviceTail, name: str, field: Field, position: int) -> SectionField:
    shown = field.total_size <= MAX_SHOWN_BYTES
    data = bytes(tail.raw[position : position + field.total_size]) if shown else None
    return SectionField(name, field.type, tail.offset + position, field.size, field.array_len, data)
