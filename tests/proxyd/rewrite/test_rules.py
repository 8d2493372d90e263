"""Rules are pure: registers in, an edit out."""

from __future__ import annotations

import pytest

from formats.arm64.register_id import id_of
from proxyd.rewrite.conditions import Condition
from proxyd.rewrite.rules import TIMERS, Add, Remove, Require, Rule, RuleError, Set, SetBits, parse_bits

TCR2, PIR = id_of("TCR2_EL1"), id_of("PIR_EL1")
STREAM = {TCR2: 0b1010}
NEVER = Condition.parse("TCR2_EL1 == 1", "test")


@pytest.mark.parametrize(
    ("rule", "edit"),
    [
        (Remove(register=TCR2, reason="r"), ("remove", None)),
        (Remove(register=PIR, reason="r"), None),
        (Remove(register=TCR2, reason="r", when=NEVER), None),
        (Set(register=TCR2, reason="r", value=3), ("set", 3)),
        (Set(register=TCR2, reason="r", value=0b1010), None),
        (Set(register=PIR, reason="r", value=3), None),
        (SetBits(register=TCR2, reason="r", mask=0b11, value=0b01), ("set", 0b1001)),
        (SetBits(register=TCR2, reason="r", mask=0b10, value=0b10), None),
        (SetBits(register=PIR, reason="r", mask=0b10, value=0b10), None),
        (Add(register=PIR, reason="r", value=7), ("add", 7)),
        (Add(register=TCR2, reason="r", value=7), None),
        (Require(register=TCR2, reason="r", when=NEVER), None),
    ],
)
def test_edits(rule: Rule, edit: tuple[str, int | None] | None) -> None:
    assert rule.change(STREAM, None) == edit
    if not isinstance(rule, Require):
        assert rule.violation(STREAM, None) is None


def test_require() -> None:
    rule = Require(register=TCR2, reason="the guest must not use it", when=NEVER)
    assert rule.violation(STREAM, None) == "the profile requires TCR2_EL1 == 1: the guest must not use it"
    assert rule.violation({TCR2: 1}, None) is None
    with pytest.raises(RuleError, match=r"^require: a condition \(when\) expected, found none$"):
        Require(register=TCR2, reason="r")


@pytest.mark.parametrize("register", sorted(TIMERS))
def test_timers_are_never_removed_or_added(register: int) -> None:
    with pytest.raises(RuleError, match=r"must never be removed: the guest's time would jump$"):
        Remove(register=register, reason="r")
    with pytest.raises(RuleError, match=r"must never be added: the guest's time would jump$"):
        Add(register=register, reason="r", value=0)


def test_a_value_fits_its_register() -> None:
    message = r"^DEMUX_CCSIDR\[3\] \(0x6020000000110003\) has 32 bits, found 0x100000000$"
    register = id_of("DEMUX_CCSIDR[3]")
    with pytest.raises(RuleError, match=message):
        Set(register=register, reason="r", value=1 << 32)
    with pytest.raises(RuleError, match=message):
        Add(register=register, reason="r", value=1 << 32)
    with pytest.raises(RuleError, match=message):
        SetBits(register=register, reason="r", mask=1 << 32, value=0)
    assert Set(register=register, reason="r", value=(1 << 32) - 1).change({register: 0}, None) == ("set", 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("text", "mask", "value"),
    [("0b1", 1, 1), ("0bx0", 1, 0), ("0bxxxx_0001", 0xF, 1), ("0b1x0x", 0b1010, 0b1000), ("0b" + "x" * 64, 0, 0)],
)
def test_bits(text: str, mask: int, value: int) -> None:
    assert parse_bits(text) == (mask, value)


@pytest.mark.parametrize("text", ["", "0b", "101", "0b2", "0b" + "1" * 65])
def test_bits_that_are_none(text: str) -> None:
    with pytest.raises(RuleError, match=r"^bits such as 0bxxxx_0001 expected"):
        parse_bits(text)
