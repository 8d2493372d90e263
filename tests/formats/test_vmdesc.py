"""The vmdesc: sizes, and JSON that is not QEMU's."""

from __future__ import annotations

import json

import pytest

from formats.errors import SchemaMismatch
from formats.vmdesc import parse_vmdesc

DEVICE = {
    "name": "dev",
    "instance_id": 3,
    "vmsd_name": "dev",
    "version": 2,
    "fields": [
        {"name": "a", "type": "uint32", "size": 4},
        {"name": "b", "array_len": 5, "type": "uint16", "size": 2},
        {"name": "b2", "index": 0, "type": "struct", "struct": {"vmsd_name": "x", "fields": []}, "size": 7},
    ],
    "subsections": [
        {
            "vmsd_name": "dev/sub",
            "version": 1,
            "fields": [{"name": "c", "type": "bool", "size": 1}],
            "subsections": [{"vmsd_name": "dev/sub/sub", "version": 1, "fields": []}],
        }
    ],
}


def test_sizes_count_arrays_and_subsection_headers() -> None:
    (device,) = parse_vmdesc(json.dumps({"page_size": 4096, "devices": [DEVICE]}).encode()).devices
    # 4 + 5*2 + 7, then 05 n "dev/sub" be32 and 1 byte, then 05 n "dev/sub/sub" be32
    assert device.payload_size == 21 + (1 + 1 + 7 + 4 + 1) + (1 + 1 + 11 + 4)
    assert [device.field_offset(name) for name in ("a", "b", "b2")] == [0, 4, 14]
    with pytest.raises(SchemaMismatch, match=r"^vmdesc of dev/3: no field d$"):
        device.field_offset("d")


def test_an_old_style_device_has_its_size_only() -> None:
    entry = {
        "name": "slirp",
        "instance_id": 0,
        "size": 131,
        "fields": [{"name": "data", "size": 131, "type": "buffer"}],
    }
    (device,) = parse_vmdesc(json.dumps({"page_size": 4096, "devices": [entry]}).encode()).devices
    assert (device.payload_size, device.version) == (131, None)


@pytest.mark.parametrize("depth", [1, 100, 300, 450])
def test_subsections_may_nest_deeper_than_python_calls(depth: int) -> None:
    nested = '{"vmsd_name": "s", "version": 1, "fields": [], "subsections": [' * depth + "]}" * depth
    entry = f'{{"name": "d", "instance_id": 0, "version": 1, "fields": [], "subsections": [{nested}]}}'
    (device,) = parse_vmdesc(f'{{"page_size": 4096, "devices": [{entry}]}}'.encode()).devices
    assert device.payload_size == depth * (1 + 1 + 1 + 4)
    assert device.subsections[0].wire_size == device.payload_size


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"page_size": 4096}',
        b'{"page_size": "x", "devices": []}',
        b'{"page_size": 1, "devices": [{"name": "a", "instance_id": 0, "size": -1}]}',
        b'{"page_size": 1, "devices": [{"name": "a", "instance_id": 0, "fields": [{"name": "f", "size": -4}]}]}',
        b'{"page_size": 1, "devices": [{"name": "a", "instance_id": 0, "size": 1' + b"0" * 400 + b"}]}",
        b'{"page_size": 1, "devices": [{"name": "\xff", "instance_id": 0}]}',
        b'{"page_size": 1, "x": ' + b"[" * 100_000,
    ],
)
def test_anything_else_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(SchemaMismatch, match=r"^vmdesc: expected QEMU's JSON description, found: "):
        parse_vmdesc(data)
