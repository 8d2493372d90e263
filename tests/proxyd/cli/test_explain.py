"""``proxyd explain``: registers and QEMU's errors. What it shows: test_explain_view.py."""

from __future__ import annotations

import pytest

from tests.proxyd.cli.command import Run


@pytest.mark.parametrize(
    "what", ["TCR2_EL1", "tcr2_el1", "0x603000000013c103", "0x603000000013C103", "op0:3 op1:0 crn:2 crm:0 op2:3"]
)
def test_a_register_in_every_way_to_say_it(run: Run, what: str) -> None:
    ran = run("explain", what)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("TCR2_EL1  0x603000000013c103\n")


def test_words_need_no_quotes(run: Run) -> None:
    assert run("explain", *["op0:3", "op1:0", "crn:2", "crm:0", "op2:3"]).out.startswith("TCR2_EL1 ")
    assert "compares the lengths" in run("explain", *["Failed", "to", "load", "cpu:cpreg_vmstate_array_len"]).out


def test_an_error_and_the_register_that_it_names(run: Run) -> None:
    shown = run("explain", "Could not set register fw reg 0 to 10003 (is 10001)").out
    assert shown.startswith("seen     the destination's QEMU")
    assert "\nFW_PSCI_VERSION  0x6030000000140000\n" in shown


def test_a_text_that_is_not_known_but_names_a_register(run: Run) -> None:
    ran = run("explain", "kernel says: op0:3 op1:0 crn:9 crm:14 op2:6 is odd")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("PMMIR_EL1 ")


def test_json(run: Run) -> None:
    document = run("explain", "--json", "Could not set register fw reg 0 to 10003").document
    assert (document["version"], document["command"]) == (1, "explain")
    assert sorted(document["error"]) == ["meaning", "todo", "where"]
    assert [register["name"] for register in document["registers"]] == ["FW_PSCI_VERSION"]
    document = run("explain", "--json", "TCR2_EL1").document
    assert document["error"] is None


@pytest.mark.parametrize("what", ["TCR2_EL", "no space left on device", "0xzz", "0x1ffffffffffffffff"])
def test_what_is_not_known_is_1(run: Run, what: str) -> None:
    ran = run("explain", what)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("proxyd explain: ")
    assert what in ran.err


def test_close_matches(run: Run) -> None:
    assert "did you mean" in run("explain", "TCR2_EL").err
    assert "TCR2_EL1" in run("explain", "TCR2_EL").err
