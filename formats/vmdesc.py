"""The vmdescription: QEMU's own JSON account of the device sections it wrote. Typed tree, no byte of the stream.

Written by ``migration/vmstate.c: vmstate_save_state_v`` and ``savevm.c: vmstate_save``. ``size`` is the number of
bytes really written, so the JSON is enough to find the end of every section. Two peculiarities of the writer matter:

* ``array_len`` stands for that many elements, ``size`` is the size of one of them;
* some types (qtailq, gtree, ``tmp``) emit the same key several times in one object. Only ``size`` is to be trusted
  there, and only ``struct`` fields are looked into.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec

from formats.errors import SchemaMismatch

# A negative number in the JSON would make a section end before it starts, and one of a hundred digits would end up in
# a message. No device writes a terabyte.
Size: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]

T = TypeVar("T")

# 05, the length of the name, be32 version.
_SUBSECTION_HEADER_BYTES: Final = 1 + 1 + 4


class Field(msgspec.Struct, frozen=True):
    """One field. ``size`` in bytes, of one element where ``array_len`` is given."""

    name: str
    size: Size
    type: str = ""
    array_len: Size | None = None
    index: int | None = None

    @property
    def total_size(self) -> int:
        """Bytes on the wire of all the field's elements."""
        return self.size * (1 if self.array_len is None else self.array_len)


class Subsection(msgspec.Struct, frozen=True):
    """A subsection. On the wire: ``05 u8 n name[n] be32 version`` and its fields, then its own subsections."""

    vmsd_name: str
    version: int
    fields: tuple[Field, ...] = ()
    subsections: tuple[Subsection, ...] = ()

    @property
    def wire_size(self) -> int:
        """Bytes on the wire, header and nested subsections included."""
        return _payload((), (self,))


class Device(msgspec.Struct, frozen=True):
    """One FULL section. Old-style handlers have ``size`` and neither ``vmsd_name`` nor ``version``."""

    name: str
    instance_id: int
    vmsd_name: str | None = None
    version: int | None = None
    size: Size | None = None
    fields: tuple[Field, ...] = ()
    subsections: tuple[Subsection, ...] = ()

    @property
    def payload_size(self) -> int:
        """Bytes between the section's header and its footer."""
        if self.size is not None:
            return self.size
        return _payload(self.fields, self.subsections)

    def field_offset(self, name: str) -> int:
        """Offset in the payload of the first field called ``name``. Raises :class:`SchemaMismatch` if there is none."""
        offset = 0
        for field in self.fields:
            if field.name == name:
                return offset
            offset += field.total_size
        raise SchemaMismatch(f"vmdesc of {self.name}/{self.instance_id}: no field {name}")


class VmDescription(msgspec.Struct, frozen=True):
    """The whole description. ``devices`` are in stream order, one per FULL section."""

    page_size: int
    devices: tuple[Device, ...]


_DECODER = msgspec.json.Decoder(VmDescription)


def parse_vmdesc(data: bytes | bytearray | memoryview) -> VmDescription:
    """Decode the JSON. Raises :class:`SchemaMismatch` if it is not what QEMU writes."""
    return decode(_DECODER, data)


def decode(decoder: msgspec.json.Decoder[T], data: bytes | bytearray | memoryview) -> T:
    """Decode the JSON, or as much of it as ``decoder`` wants. Raises :class:`SchemaMismatch` if QEMU wrote it not."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SchemaMismatch(f"vmdesc: expected QEMU's JSON description, found: {error}") from error


def _payload(fields: Iterable[Field], subsections: Iterable[Subsection]) -> int:
    """By a loop: the JSON decoder takes deeper nesting than Python's own calls may have."""
    size = sum(field.total_size for field in fields)
    pending = list(subsections)
    while pending:
        one = pending.pop()
        size += _SUBSECTION_HEADER_BYTES + len(one.vmsd_name) + sum(field.total_size for field in one.fields)
        pending += one.subsections
    return size
