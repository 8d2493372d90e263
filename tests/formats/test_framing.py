"""The construct schemas, against bytes written by hand: one comment per field."""

from __future__ import annotations

import struct
from typing import Any

import construct as c
import pytest

from formats import framing

CASES: list[tuple[c.Construct, bytes, dict[str, Any]]] = [
    (framing.FILE_HEADER, b"QEVM" + b"\x00\x00\x00\x03", {"magic": b"QEVM", "version": 3}),
    (
        framing.SECTION_HEADER,
        (
            b"\x04"  # type: FULL
            b"\x00\x00\x00\x29"  # section_id
            b"\x03cpu"  # idstr
            b"\x00\x00\x00\x01"  # instance_id
            b"\x00\x00\x00\x16"
        ),  # version_id
        {"type": 4, "section_id": 41, "idstr": "cpu", "instance_id": 1, "version_id": 22},
    ),
    (framing.PART_HEADER, b"\x02\x00\x00\x00\x02", {"type": 2, "section_id": 2}),
    (framing.FOOTER, b"\x7e\x00\x00\x00\x29", {"type": 0x7E, "section_id": 41}),
    (framing.COMMAND_HEADER, b"\x08\x00\x02\x00\x04", {"type": 8, "command": 2, "length": 4}),
    (framing.VMDESC_HEADER, b"\x00\x06\x00\x00\x01\x00", {"eof": b"\0", "type": b"\x06", "length": 256}),
    (framing.CONFIGURATION, b"\x07\x00\x00\x00\x04virt", {"type": b"\x07", "name": "virt"}),
    (
        framing.SUBSECTION_HEADER,
        b"\x05\x07cpu/vfp\x00\x00\x00\x03",
        {"type": b"\x05", "name": "cpu/vfp", "version_id": 3},
    ),
]


@pytest.mark.parametrize(("schema", "wire", "fields"), CASES)
def test_parse_build_and_every_truncation(schema: c.Construct, wire: bytes, fields: dict[str, Any]) -> None:
    parsed = schema.parse(wire)
    assert {name: parsed[name] for name in fields} == fields
    assert schema.build(fields) == wire
    for end in range(len(wire)):
        with pytest.raises(c.ConstructError):
            schema.parse(wire[:end])


def test_u64_array_is_one_struct_call_each_way() -> None:
    schema = c.Struct("n" / c.Int8ub, "values" / framing.U64Array(lambda this: this.n), "rest" / c.GreedyBytes)
    wire = b"\x02" + struct.pack(">2Q", 1, (1 << 64) - 1) + b"!"
    parsed = schema.parse(wire)
    assert (parsed["values"], parsed.rest) == ((1, (1 << 64) - 1), b"!")
    assert schema.build({"n": 2, "values": (1, (1 << 64) - 1), "rest": b"!"}) == wire
    with pytest.raises(c.StreamError):
        schema.parse(wire[:-2])
