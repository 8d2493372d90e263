"""Where the values of nested fields are, by the description."""

from __future__ import annotations

import json
from typing import Any

import pytest

from formats.described_fields import described_structs
from formats.errors import SchemaMismatch


def field(name: str, size: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "size": size, "type": "x", **more}


def described(*devices: dict[str, Any]) -> bytes:
    return json.dumps({"page_size": 4096, "devices": list(devices)}).encode()


INNER = {"vmsd_name": "Inner", "version": 1, "fields": [field("a", 2), field("b", 4)]}
OUTER = {
    "name": "dev",
    "instance_id": 0,
    "vmsd_name": "outer",
    "fields": [
        field("first", 3),
        field("parent", 6, type="struct", struct=INNER),
        field("many", 6, array_len=2, type="struct", struct=INNER),
        field("unnamed", 1, type="struct", struct={"fields": [field("c", 1)]}),
        field("last", 1),
    ],
}


def test_structs_in_structs_have_offsets_of_the_payload() -> None:
    ((outer, *inner),) = described_structs(described(OUTER))
    assert outer.name == "outer"
    assert outer.fields["last"] == (3 + 6 + 12 + 1, 1)
    assert "many" not in outer.fields, "arrays are passed over by their size"
    assert {one.name: one.fields for one in inner} == {
        "Inner": {"a": (3, 2), "b": (5, 4)},
        "unnamed": {"c": (21, 1)},
    }


def test_values() -> None:
    ((_, *inner),) = described_structs(described(OUTER))
    one = next(struct for struct in inner if struct.name == "Inner")
    payload = bytes(3) + b"\x01\x02" + b"\xff\xff\xff\xfe" + bytes(14)
    assert one.integer(payload, "a") == 0x102
    assert one.integer(payload, "b", signed=True) == -2
    assert one.integer(payload, "b") == 0xFFFFFFFE
    assert one.integer(payload, "nothing") is None


def test_old_style_devices_have_their_own_name() -> None:
    ((only,),) = described_structs(described({"name": "slirp", "size": 9, "fields": [field("data", 9)]}))
    assert only.name == "slirp"


@pytest.mark.parametrize("data", [b"{", b"\xff", b'{"devices": 1}', b'{"devices":' + b"[" * 10000])
def test_what_is_no_description(data: bytes) -> None:
    with pytest.raises(SchemaMismatch, match="vmdesc: expected QEMU's JSON description"):
        list(described_structs(data))


def test_structs_nested_as_deep_as_the_decoder_goes() -> None:
    deep: dict[str, Any] = {"vmsd_name": "leaf", "fields": [field("a", 1)]}
    for _ in range(200):
        deep = {"vmsd_name": "n", "fields": [field("in", 1, struct=deep)]}
    (found,) = described_structs(described({"name": "d", "fields": deep["fields"]}))
    assert found[-1].name == "leaf"
