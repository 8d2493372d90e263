"""QEMU's texts are recognised as they were seen, by the version that prints them."""

from __future__ import annotations

import pytest

from proxyd.cli.qemu_errors import explain_error, registers_named

SEEN = {
    "qemu: Invalid value 258 expecting positive value <= 257\nqemu: Failed to load cpu:cpreg_vmstate_array_len":
        "more registers than the destination's has",
    "cpreg_vmstate_array_len": "more registers than the destination's has",
    "qemu: Failed to put registers after init: Invalid argument": "this QEMU does not say which",
    "qemu: error while loading state for instance 0x0 of device 'cpu'": "A vCPU's state could not be loaded",
    "qemu: load of migration failed: Operation not permitted": "although the lists' lengths fit",
    "qemu: load of migration failed: Invalid argument": "says only the kind of error",
    "Could not set register fw reg 0 to 10003 (is 10001)": "a firmware register",
    "Could not set register system register op0:3 op1:0 crn:1 crm:0 op2:3: unknown to KVM":
        "an ID register's value in the stream",
    "Could not set register op0:3 op1:0 crn:0 crm:7 op2:2 to 220011100001011 (is 220011102001011)":
        "refused the value of this register",
    "handle_cpreg_only_in_incoming_stream: system register op0:3 op1:0 crn:9 crm:14 op2:6 in the incoming stream but "
    "unknown on the destination: fail migration": "this is not one of them",
    "Sibling indicated error 1": "The source has resumed the guest",
}  # fmt: skip


@pytest.mark.parametrize("text", SEEN)
def test_recognised(text: str) -> None:
    explanation = explain_error(text)
    assert explanation is not None
    assert SEEN[text] in explanation.meaning
    assert explanation.where
    assert explanation.todo
    assert "\n" not in explanation.meaning + explanation.todo


def test_the_whole_of_what_qemu_printed_is_explained_by_its_most_particular_line() -> None:
    explanation = explain_error(
        "qemu: Invalid value 258 expecting positive value <= 257\n"
        "qemu: Failed to load cpu:cpreg_vmstate_array_len\n"
        "qemu: error while loading state for instance 0x0 of device 'cpu'\n"
        "qemu: load of migration failed: Invalid argument\n"
    )
    assert explanation is not None
    assert "compares the lengths" in explanation.meaning


def test_what_is_not_known() -> None:
    assert explain_error("TCR2_EL1") is None
    assert explain_error("no space left on device") is None


@pytest.mark.parametrize(
    ("text", "registers"),
    [
        ("nothing", ()),
        ("fw reg 0 to 10003", (0x6030000000140000,)),
        ("system register op0:3 op1:0 crn:9 crm:14 op2:6 in", (0x603000000013C4F6,)),
        ("(0x603000000013c103) then op0:3 op1:0 crn:9 crm:14 op2:6", (0x603000000013C103, 0x603000000013C4F6)),
        ("fw reg 1, fw reg 1, fw reg 0", (0x6030000000140001, 0x6030000000140000)),
    ],
)
def test_registers_that_a_text_names(text: str, registers: tuple[int, ...]) -> None:
    assert registers_named(text) == registers
