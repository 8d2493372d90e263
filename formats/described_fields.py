"""The fields inside a device's structs, by the vmdesc: where the value of a known field is.

:mod:`formats.vmdesc` keeps sizes alone, which is enough to cut sections. Here the nested ``struct`` objects are read as
well, for who looks for one struct by the name of its VMStateDescription. What the writer describes only in part is
passed over by its size: arrays of structs, and the types that emit one key several times (qtailq, gtree).

Mirrors ``migration/vmstate.c: vmsd_desc_field_start``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from formats.vmdesc import Field, decode


@dataclass(frozen=True, slots=True)
class DescribedStruct:
    """One struct: the name of its VMStateDescription and, by name, the (offset, size) of its plain fields, in bytes.

    Offsets are those of the device's payload.
    """

    name: str
    fields: dict[str, tuple[int, int]]

    def integer(self, payload: bytes | memoryview, field: str, *, signed: bool = False) -> int | None:
        """The big-endian integer in ``field``; None where the struct has no such field."""
        place = self.fields.get(field)
        if place is None:
            return None
        offset, size = place
        return int.from_bytes(payload[offset : offset + size], "big", signed=signed)


class _Struct(msgspec.Struct, frozen=True):
    vmsd_name: str | None = None
    fields: tuple[_Field, ...] = ()


class _Field(Field, frozen=True):
    struct: _Struct | None = None


class _Device(msgspec.Struct, frozen=True):
    name: str
    vmsd_name: str | None = None
    fields: tuple[_Field, ...] = ()


class _Description(msgspec.Struct, frozen=True):
    devices: tuple[_Device, ...]


_DECODER = msgspec.json.Decoder(_Description)


def described_structs(vmdesc: bytes | memoryview) -> Iterator[tuple[DescribedStruct, ...]]:
    """For each device of the vmdesc, in its order: the structs in its fields, itself first.

    :raises SchemaMismatch: the JSON is not what QEMU writes.
    """
    for device in decode(_DECODER, vmdesc).devices:
        yield tuple(_structs(device.vmsd_name or device.name, device.fields))


def _structs(name: str, fields: tuple[_Field, ...]) -> Iterator[DescribedStruct]:
    """By a loop: the JSON decoder takes deeper nesting than Python's own calls may have."""
    pending = [(name, fields, 0)]
    while pending:
        name, fields, offset = pending.pop()
        plain: dict[str, tuple[int, int]] = {}
        for field in fields:
            if field.array_len is None:
                plain.setdefault(field.name, (offset, field.size))
                if field.struct is not None:
                    pending.append((field.struct.vmsd_name or field.name, field.struct.fields, offset))
            offset += field.total_size
        yield DescribedStruct(name, plain)
