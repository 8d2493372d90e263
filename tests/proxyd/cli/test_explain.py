"""``proxyd explain``: registers and QEMU's errors. What it shows: test_explain_view.py."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxyd.cli import explain
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


LOG = """\
qemu-system-aarch64: Could not set register fw reg 0 to 10003 (is 10001)
qemu-system-aarch64: Could not set register system register op0:3 op1:0 crn:1 crm:0 op2:3: unknown to KVM
qemu-system-aarch64: error while loading state for instance 0x0 of device 'cpu'
qemu-system-aarch64: Failed to put registers after init: Invalid argument
"""


def test_a_whole_log(run: Run) -> None:
    ran = run("explain", LOG)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[1] == LOG.splitlines()[0]
    assert "FW_PSCI_VERSION  0x6030000000140000" in lines
    assert "sent     0x10003, the destination has 0x10001 (MINOR 3, here 1)" in lines
    assert "hidden   by Linux 6.17 and newer while ID_AA64MMFR3_EL1.SCTLRX is 0" in lines
    assert lines[lines.index("And what follows from that:") + 1] == f"  {LOG.splitlines()[3]}"
    assert lines[-1].startswith("registers: FW_PSCI_VERSION (0x6030000000140000), SCTLR2_EL1 (0x603000000013c083)")
    assert "What may be changed" not in ran.out, "that is for one register"


def test_a_log_without_registers(run: Run) -> None:
    shown = run("explain", "Sibling indicated error 1\nload of migration failed: Invalid argument").out
    assert "registers: " not in shown


def test_a_log_from_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(LOG.encode() + b"\xff")))
    assert "sent     0x10003" in run("explain", "-").out


def test_a_log_without_anything_known_is_1(run: Run) -> None:
    ran = run("explain", "one\ntwo")
    assert ran.code == 1
    assert ran.err == ("proxyd explain: a text that QEMU, KVM or proxyd prints expected, found none in 2 lines\n")


def test_a_log_file_that_is_too_long_is_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(explain, "MAX_LOG_BYTES", 4)
    (tmp_path / "log").write_bytes(b"1234")
    assert explain.read_log(str(tmp_path / "log")) == "1234"
    (tmp_path / "log").write_bytes(b"12345")
    with pytest.raises(explain.InputError, match="a log of at most 4 bytes expected"):
        explain.read_log(str(tmp_path / "log"))


def test_json_of_a_log(run: Run) -> None:
    document = run("explain", "--json", LOG + "Invalid value 258 expecting positive value <= 257").document
    assert document["error"]["where"].startswith("the destination's QEMU")
    assert [len(one["lines"]) for one in document["errors"]] == [1, 1, 1, 1, 1]
    (psci,) = document["errors"][0]["facts"]
    assert psci == {
        "kind": "value-refused",
        "register": "0x6030000000140000",
        "name": "FW_PSCI_VERSION",
        "errno": "EINVAL",
        "wanted": "0x10003",
        "own": "0x10001",
        "advice": psci["advice"],
    }
    assert psci["advice"][0] == "0x10003, the destination has 0x10001 (MINOR 3, here 1)"
    (lengths,) = document["errors"][2]["facts"]
    assert (lengths["register"], lengths["name"], lengths["wanted"], lengths["own"]) == (None, None, 258, 257)
    assert [register["name"] for register in document["registers"]] == ["FW_PSCI_VERSION", "SCTLR2_EL1"]
