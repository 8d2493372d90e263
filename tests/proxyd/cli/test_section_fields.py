"""A section's fields are where the vmdesc says."""

from __future__ import annotations

from formats.events import DeviceTail
from formats.parser import StreamParser
from proxyd.cli.section_fields import MAX_SHOWN_BYTES, SectionField, fields_in, version_of
from tests import builders as b


def tail_of(wire: bytes) -> DeviceTail:
    (tail,) = (event for event in StreamParser().feed(wire) if isinstance(event, DeviceTail))
    return tail


def test_every_field_with_its_place_and_its_bytes() -> None:
    inner = b.subsection(b"dev/inner", 1, b"\x0a\x0b")
    payload = b.be32(7) + b"\x01\x02\x03" + bytes(MAX_SHOWN_BYTES + 1) + b.subsection(b"dev/outer", 2, b"\x09" + inner)
    device = b.Device(
        b"dev",
        payload,
        version=3,
        fields=[
            {"name": "count", "type": "uint32", "size": 4},
            {"name": "item", "type": "uint8", "size": 1, "array_len": 3},
            {"name": "big", "type": "buffer", "size": MAX_SHOWN_BYTES + 1, "index": 4},
        ],
        subsections=[
            {
                "vmsd_name": "dev/outer",
                "version": 2,
                "fields": [{"name": "a", "type": "bool", "size": 1}],
                "subsections": [
                    {"vmsd_name": "dev/inner", "version": 1, "fields": [{"name": "b", "type": "uint16", "size": 2}]}
                ],
            }
        ],
    )
    wire = b.stream(parts=[device])
    tail = tail_of(wire)
    (section,) = tail.sections
    assert version_of(tail, section) == 3
    found = fields_in(tail, section)
    start = wire.index(payload)
    assert [(one.name, one.offset - start) for one in found] == [
        ("count", 0),
        ("item", 4),
        ("big[4]", 7),
        ("dev/outer: a", 7 + MAX_SHOWN_BYTES + 1 + 15),
        ("dev/inner: b", 7 + MAX_SHOWN_BYTES + 1 + 15 + 1 + 15),
    ]
    assert [one.data for one in found] == [b.be32(7), b"\x01\x02\x03", None, b"\x09", b"\x0a\x0b"]
    for one in found:
        if one.data is not None:
            assert wire[one.offset : one.offset + len(one.data)] == one.data


def test_an_old_style_section_has_its_version_in_the_header_alone() -> None:
    tail = tail_of(b.stream(parts=[b.Device(b"slirp", b"old style", 4, old_style=True)]))
    assert version_of(tail, tail.sections[0]) == 4


def test_documents_have_bytes_as_hex() -> None:
    field = SectionField("count", "uint32", 10, 4, None, b"\x00\x07")
    assert field.to_json_dict() == {
        "name": "count",
        "type": "uint32",
        "offset": 10,
        "size": 4,
        "array_len": None,
        "data": "0007",
    }
    assert SectionField("big", "buffer", 10, 99, 2, None).to_json_dict()["data"] is None
