"""The arm cpu section: bytes, schema and vmdesc must agree; what is not touched stays as it came."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from formats.arm64.cpreg_list import CpregList
from formats.errors import FormatError, LimitExceeded, SchemaMismatch
from formats.events import DeviceTail
from formats.parser import StreamParser
from formats.schemas.arm_cpu import is_arm_cpu, known_bytes, parse_arm_cpu, parse_undescribed
from formats.vmdesc import Device, parse_vmdesc
from tests import builders as b
from tests import recorded

REGISTERS = b.SOME_REGISTERS


def described(device: b.Device) -> Device:
    return parse_vmdesc(b.vmdesc([device])[5:]).devices[0]


@pytest.mark.parametrize("registers", [{}, {1: 2}, REGISTERS, {i: i * 7 for i in range(300)}])
@pytest.mark.parametrize("subsections", [True, False])
def test_take_apart_and_build_again(registers: dict[int, int], subsections: bool) -> None:
    device = b.cpu(registers, subsections=subsections)
    cpu = parse_arm_cpu(memoryview(device.payload), described(device), 0)
    assert dict(cpu.cpregs) == registers
    assert cpu.build() == device.payload


def test_another_list_moves_only_what_is_behind_it() -> None:
    device = b.cpu(REGISTERS)
    cpu = parse_arm_cpu(device.payload, described(device), 0)
    shorter = {id_: value for id_, value in REGISTERS.items() if id_ != 0x603000000013C103}
    changed = cpu.with_cpregs(CpregList.from_arrays(tuple(shorter), tuple(shorter.values())))
    assert changed.build() == b.cpu(shorter).payload


def test_an_x86_cpu_section_is_another_thing() -> None:
    x86 = b.Device(b"cpu", b"\0" * 8, 12, fields=[{"name": "env.regs", "size": 8, "type": "uint64"}])
    assert not is_arm_cpu(described(x86))
    assert is_arm_cpu(described(b.cpu(REGISTERS)))
    assert not is_arm_cpu(described(b.Device(b"cpu_common", b"\0" * 8)))


def edited(payload: bytes, at: int, data: bytes) -> bytes:
    return payload[:at] + data + payload[at + len(data) :]


GOOD = b.cpu(REGISTERS)
N = len(REGISTERS)


@pytest.mark.parametrize(
    ("payload", "change", "kind", "message"),
    [
        (GOOD.payload, {"version": 23}, SchemaMismatch, "at 0x40: cpu/0: version 22 expected, found 23"),
        (
            GOOD.payload,
            {"fields": described(GOOD).fields[1:]},
            SchemaMismatch,
            "at 0x40: cpu/0: cpreg_vmstate_array_len expected at 568, the vmdesc says 504",
        ),
        (
            edited(GOOD.payload, 568, b.be32(3000)),
            {},
            LimitExceeded,
            "at 0x40: cpu/0: cpreg list of at most 2048 registers expected, found 3000",
        ),
        (
            edited(GOOD.payload, 568, b.be32(2)),
            {},
            SchemaMismatch,
            "at 0x40: cpu/0: cpreg_vmstate_array_len says 2, the vmdesc gives cpreg_vmstate_indexes 3 elements",
        ),
        (
            edited(GOOD.payload, 568, b"\xff\xff\xff\xff"),
            {},
            SchemaMismatch,
            "at 0x40: cpu/0: cpreg_vmstate_array_len says -1, the vmdesc gives cpreg_vmstate_indexes 3 elements",
        ),
        (GOOD.payload[:600], {}, SchemaMismatch, "at 0x40: cpu/0: expected the layout of vmstate_arm_cpu, found: "),
        (
            edited(GOOD.payload, 572, b.be64(0x603000000013C103)),
            {},
            SchemaMismatch,
            "at 0x40: cpu/0: ",
        ),
    ],
)
def test_what_does_not_agree(payload: bytes, change: dict[str, Any], kind: type[FormatError], message: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}"):
        parse_arm_cpu(payload, msgspec.structs.replace(described(GOOD), **change), 0x40)


def test_the_limit_can_be_set() -> None:
    with pytest.raises(LimitExceeded, match="at most 2 registers expected, found 3"):
        parse_arm_cpu(GOOD.payload, described(GOOD), 0, max_cpregs=2)


def test_frozen() -> None:
    cpu = parse_arm_cpu(GOOD.payload, described(GOOD), 0)
    assert replace(cpu) == cpu


def test_without_a_vmdesc_the_layout_is_the_proof() -> None:
    for subsections in (True, False):
        device = b.cpu(REGISTERS, subsections=subsections)
        assert parse_undescribed(device.payload, "cpu/0", 0) == parse_arm_cpu(device.payload, described(device), 0)


@pytest.mark.parametrize(
    ("payload", "kind", "message"),
    [
        (GOOD.payload[:571], SchemaMismatch, "cpu: a cpreg list's length expected at 568, found none"),
        (
            edited(GOOD.payload, 568, b"\xff\xff\xff\xff"),
            SchemaMismatch,
            "cpu: a cpreg list's length expected at 568, found none",
        ),
        (
            edited(GOOD.payload, 568, b.be32(9)),
            LimitExceeded,
            "at 0x40: cpu/0: cpreg list of at most 8 registers expected, found 9",
        ),
        (
            edited(GOOD.payload, 568, b.be32(7)),
            SchemaMismatch,
            "at 0x40: cpu/0: expected the layout of vmstate_arm_cpu, found other bytes behind it",
        ),
        (
            edited(GOOD.payload, 637 + 16 * N, b"\x06"),
            SchemaMismatch,
            "at 0x40: cpu/0: expected the layout of vmstate_arm_cpu, found other bytes behind it",
        ),
    ],
)
def test_what_has_not_that_layout(payload: bytes, kind: type[FormatError], message: str) -> None:
    with pytest.raises(kind) as caught:
        parse_undescribed(payload, "cpu/0", 0x40, 8)
    assert str(caught.value) == message


def test_how_long_a_payload_is_as_far_as_that_is_known() -> None:
    payload = b.cpu(b.SOME_REGISTERS).payload
    assert known_bytes(b"before" + payload + b"behind", 6) == (len(payload), True)
    vectors = b.subsection(b"cpu/vfp", 3, bytes(576)) + b.subsection(b"cpu/sve", 1, bytes(4128))
    assert known_bytes(payload + vectors, 0) == (len(payload + vectors), True)
    for more in (b.subsection(b"cpu/sve", 2, bytes(4128)), b.subsection(b"cpu/new", 1, b"?"), b"\x05"):
        assert known_bytes(payload + more, 0) == (len(payload), False)
    with pytest.raises(SchemaMismatch, match="a cpreg list's length expected"):
        known_bytes(payload[:500], 0)


@pytest.mark.parametrize("name", [*recorded.names()[::9], *recorded.mode_names()])
def test_the_sizes_of_subsections_are_those_that_qemu_says(name: str) -> None:
    wire = recorded.load(name) if name in recorded.names() else recorded.load_mode(name)
    tails = [event for event in StreamParser().feed(wire) if isinstance(event, DeviceTail)]
    for tail in tails:
        for section in tail.sections:
            if is_arm_cpu(section.device):
                payload = bytes(tail.raw[section.payload_start : section.payload_end])
                assert known_bytes(payload, 0) == (section.device.payload_size, True)
    assert len(tails) == ("postcopy" not in name)
