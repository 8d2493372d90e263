"""Drafts of rules: conditions, whole fields, and two that become one."""

from __future__ import annotations

import pytest

from formats.arm64.register_id import id_of
from proxyd.rewrite.conditions import Condition
from proxyd.rewrite.draft import DraftRule, condition_name, fields_hold, whole_fields
from proxyd.rewrite.verdict import Verdict

MMFR2, MMFR3 = id_of("ID_AA64MMFR2_EL1"), id_of("ID_AA64MMFR3_EL1")


@pytest.mark.parametrize(
    ("register", "name"),
    [
        (MMFR2, "ID_AA64MMFR2_EL1"),
        (id_of("DEMUX_CCSIDR[3]"), "DEMUX_CCSIDR[3]"),
        (0x603000000013C4F7, "register(0x603000000013c4f7)"),
        (0x40200000200E0298, "register(0x40200000200e0298)"),
    ],
)
def test_how_a_condition_names_a_register(register: int, name: str) -> None:
    assert condition_name(register) == name
    assert Condition.parse(f"{name} == 5", "").holds({register: 5}, None)


def test_a_bit_stands_for_its_field_and_a_strange_one_for_its_nibble() -> None:
    nv, ccidx = 0xF << 24, 0xF << 20
    assert whole_fields(MMFR2, 1 << 25 | 1 << 20) == nv | ccidx
    assert whole_fields(id_of("ID_AA64MMFR4_EL1"), 1 << 63) == 0xF << 60
    assert whole_fields(MMFR2, 0) == 0


def test_a_condition_on_fields() -> None:
    text = fields_hold(MMFR2, 0xFF << 20, 0x2100000)
    assert text == "ID_AA64MMFR2_EL1.CCIDX == 1 and ID_AA64MMFR2_EL1.NV == 2"
    assert Condition.parse(text, "").holds({MMFR2: 0x2100000}, None)
    register = id_of("ID_AA64MMFR4_EL1")
    text = fields_hold(register, 0xF << 60, 5 << 60)
    assert text == "ID_AA64MMFR4_EL1 & 0xf000000000000000 == 0x5000000000000000"
    assert Condition.parse(text, "").holds({register: 5 << 60}, None)


def test_two_rules_for_the_bits_of_one_register_are_one() -> None:
    first = DraftRule(MMFR3, "set-bits", "A == 1", Verdict.NEUTRAL, "this", ("one",), ("x",), 0x10, 0xF0)
    second = DraftRule(MMFR3, "set-bits", None, Verdict.LOSSY, "that", ("two",), ("x",), 0x3, 0xF)
    assert first.and_bits_of(second) == DraftRule(
        MMFR3, "set-bits", "A == 1", Verdict.LOSSY, "this; that", ("one", "two"), ("x",), 0x13, 0xFF
    )
    assert second.and_bits_of(second) == second
