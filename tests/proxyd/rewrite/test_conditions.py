"""The condition language: what holds, what is undecided, and what is not accepted."""

from __future__ import annotations

import ast

import pytest

from formats.arm64.register_id import id_of
from proxyd.rewrite.conditions import ACCEPTED, Condition, ConditionError

MMFR3, TCR2, CCSIDR = id_of("ID_AA64MMFR3_EL1"), id_of("TCR2_EL1"), id_of("DEMUX_CCSIDR[3]")
STREAM = {MMFR3: 0x101, TCR2: 0, CCSIDR: 7, id_of("ID_AA64PFR0_EL1"): 0x00F00000}
DESTINATION = {MMFR3: 0x111, TCR2: 5}


def holds(text: str, destination: dict[int, int] | None = DESTINATION) -> bool:
    return Condition.parse(text, "here").holds(STREAM, destination)


@pytest.mark.parametrize(
    "text",
    [
        "TCR2_EL1 == 0",
        "tcr2_el1 == 0",
        "ID_AA64MMFR3_EL1.TCRX == 1",
        "ID_AA64MMFR3_EL1.SCTLRX != 1",
        "0 <= TCR2_EL1 < 1",
        "ID_AA64MMFR3_EL1 & 0x100 != 0",
        "ID_AA64MMFR3_EL1 & 0b1 == 1",
        "DEMUX_CCSIDR[3] > 6",
        "DEMUX_CCSIDR[3] >= 7",
        "ID_AA64PFR0_EL1.AdvSIMD == -1",
        "not TCR2_EL1 == 1",
        "TCR2_EL1 == 0 and ID_AA64MMFR3_EL1.TCRX == 1",
        "TCR2_EL1 == 1 or ID_AA64MMFR3_EL1.TCRX == 1",
        "listed(TCR2_EL1) and not listed(PMMIR_EL1)",
        "destination.TCR2_EL1 == 5",
        "destination.ID_AA64MMFR3_EL1.SCTLRX == 1",
        "listed(destination.TCR2_EL1)",
        "not listed(destination.DEMUX_CCSIDR[3])",
        "register(0x603000000013c103) == 0",
        "destination.register(0x603000000013c103) == 5",
        "not listed(register(0x603000000013c4f7))",
        "listed(destination.register(0x603000000013c103))",
        "ID_AA64PFR0_EL1.AdvSIMD != -2",
        # one part that holds decides an "or", whatever is not there
        "PMMIR_EL1 == 0 or TCR2_EL1 == 0",
    ],
)
def test_these_hold(text: str) -> None:
    assert holds(text)
    assert not holds(f"not ({text})")


@pytest.mark.parametrize(
    "text",
    [
        "PMMIR_EL1 == 0",
        "PMMIR_EL1 & 1 == 0",
        "TCR2_EL1 == 0 and PMMIR_EL1 == 0",
        "TCR2_EL1 == 1 or PMMIR_EL1 == 0",
        "destination.PMMIR_EL1 == 0",
        "destination.DEMUX_CCSIDR[3] == 7",
        "register(0x603000000013c4f7) == 0",
    ],
)
def test_a_register_that_is_not_there_decides_nothing(text: str) -> None:
    assert not holds(text)
    assert not holds(f"not ({text})")


def test_an_unknown_destination_decides_nothing() -> None:
    for text in ("destination.TCR2_EL1 == 5", "listed(destination.TCR2_EL1)"):
        assert not holds(text, None)
        assert not holds(f"not {text}", None)


def test_which_registers_of_the_stream_are_read() -> None:
    condition = Condition.parse("ID_AA64MMFR3_EL1.TCRX == 0 and destination.PMMIR_EL1 == 0", "here")
    assert condition.registers == {MMFR3}
    by_id = Condition.parse("register(0x123) == 0 and destination.register(0x456) == 0", "here")
    assert by_id.registers == {0x123}
    assert str(condition) == condition.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "here: column 1: condition expected, found ''"),
        ("TCR2_EL1 ==", "here: column 12: condition expected, found 'TCR2_EL1 =='"),
        ("TCR2_EL1 == 0\x00", "here: column 15: condition expected, found"),
        ("TCR2_EL1 == 1 is 1", "here: column 1: == != < <= > or >= expected"),
        ("TCR2_EL1 == -True", f"here: column 13: {ACCEPTED} expected, found '-True'"),
        ("abs(TCR2_EL1) == 0", "here: column 1: register(ID) expected, found 'abs(TCR2_EL1)'"),
        ("register(TCR2_EL1) == 0", "here: column 1: register(ID) expected"),
        ("register(1, x=2) == 0", "here: column 1: register(ID) expected"),
        ("register(True) == 0", "here: column 1: register(ID), with an id of 64 bits, expected"),
        ("register(0x1603000000013c103) == 0", "here: column 1: register(ID), with an id of 64 bits, expected"),
        ("x" * 1001, "here: condition of at most 1000 characters expected, found 1001"),
        ("(" * 400 + "TCR2_EL1 == 0" + ")" * 400, "here: "),
        (
            "TCR2_EL1",
            "here: column 1: comparison, listed(REGISTER), or such joined by and, or, not expected, found 'TCR2_EL1'",
        ),
        ("TCR2_EL1 is 0", "here: column 1: == != < <= > or >= expected"),
        ("TCR2_EL1 + 1 == 0", f"here: column 1: {ACCEPTED} expected, found 'TCR2_EL1 + 1'"),
        ("TCR2_EL1 == True", f"here: column 13: {ACCEPTED} expected, found 'True'"),
        ("TCR2_EL1 == 'x'", f"here: column 13: {ACCEPTED} expected"),
        ("TCR2_EL1 == 0 and 1", "here: column 19: comparison, "),
        ("0x603000000013c103 != 0", "here: column 1: comparison with a register (one by its id is register(ID))"),
        ("TCR2_EL1 == 0 and not 2 & 1 == 0", "here: column 23: comparison with a register"),
        ("__import__('os').system('true')", "here: column 1: listed(REGISTER) expected"),
        ("listed(TCR2_EL1, PIR_EL1)", "here: column 1: listed(REGISTER) expected"),
        ("listed(x=TCR2_EL1)", "here: column 1: listed(REGISTER) expected"),
        ("listed(ID_AA64MMFR3_EL1.TCRX)", "here: column 1: listed(REGISTER), without a field, expected"),
        ("listed(3)", f"here: column 8: {ACCEPTED} expected, found '3'"),
        ("TCR3_EL1 == 0", "here: name of a register or its id in hex expected, found 'TCR3_EL1' (did you mean"),
        ("ID_AA64MMFR3_EL1.TCRY == 0", "here: field of ID_AA64MMFR3_EL1 (0x603000000013c03b) expected, found 'TCRY'"),
        ("destination == 0", "here: column 1: REGISTER or REGISTER.FIELD expected, found 'destination'"),
        ("A.B.C.D == 0", "here: column 1: REGISTER or REGISTER.FIELD expected"),
        ("DEMUX_CCSIDR['x'] == 0", f"here: column 1: {ACCEPTED} expected"),
    ],
)
def test_what_is_not_accepted(text: str, message: str) -> None:
    with pytest.raises(ConditionError) as caught:
        Condition.parse(text, "here")
    assert str(caught.value).startswith(message)


def test_no_depth_of_nesting_escapes_as_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "TCR2_EL1" + "&1" * 450 + " == 0"
    assert Condition.parse(deep, "here").holds(STREAM, None)

    def exhausted(*_: object, **__: object) -> None:
        raise RecursionError

    monkeypatch.setattr(ast, "parse", exhausted)
    with pytest.raises(ConditionError, match=r"^here: condition with fewer nested parts expected$"):
        Condition.parse("TCR2_EL1 == 0", "here")


@pytest.mark.parametrize("text", ["1 is 1", "0x1and TCR2_EL1 == 0", "'\\d' == 0"])
def test_python_s_own_warnings_do_not_show(text: str) -> None:
    # Warnings are errors in this suite: one that leaked would not be a ConditionError.
    with pytest.raises(ConditionError):
        Condition.parse(text, "here")
