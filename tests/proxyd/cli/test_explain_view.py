"""What ``proxyd explain`` shows."""

from __future__ import annotations

import pytest

from formats.arm64.register_id import id_of
from proxyd.cli import explain_view
from proxyd.cli.explain_view import error_document, register_document, show_error, show_register
from proxyd.cli.qemu_errors import Explanation
from proxyd.cli.terminal import console
from proxyd.rewrite.knowledge_file import parse_knowledge

KNOWN = """
[[entry]]
registers  = ["TCR2_EL1"]
listed     = [{ since = "6.13", when = "ID_AA64MMFR3_EL1.TCRX != 0" }]
evidence   = "commit 0"
enabled_by = { field = "ID_AA64MMFR3_EL1.TCRX", since = "6.13" }
accepts    = [
    { until = "6.2", values = "equal" },
    { since = "6.3", until = "6.5", values = "at-most", field = "PIE" },
    { since = "6.6", values = "any" },
    { values = "subset", field = "AIE", silent = true },
]
[[entry.case]]
action = "remove"
when = "ID_AA64MMFR3_EL1.TCRX == 0"
verdict = "proven"
reason = "it has not got it"
evidence = "commit 1"
[[entry.case]]
action = "destination"
field = "PIE"
verdict = "lossy"
reason = "it may use it"
evidence = "commit 2"
[[entry.case]]
action = "absent"
value = "0x2"
verdict = "neutral"
reason = "it was so"
evidence = "commit 3"
"""


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A knowledge base of one entry, so that the tests do not change with every kernel."""
    knowledge = parse_knowledge([("known.toml", KNOWN.encode())])
    monkeypatch.setattr(explain_view.Knowledge, "builtin", staticmethod(lambda: knowledge))
    monkeypatch.setenv("COLUMNS", "120")


def test_a_known_register(capsys: pytest.CaptureFixture[str]) -> None:
    show_register(console(), id_of("TCR2_EL1"))
    shown = capsys.readouterr().out
    assert shown.startswith("""\
TCR2_EL1  0x603000000013c103
kind     sysreg op0:3 op1:0 crn:2 crm:0 op2:3, 64 bits
listed   Linux 6.13 and newer: if ID_AA64MMFR3_EL1.TCRX != 0
accepts  equal (Linux 6.2 and older)
accepts  field PIE: at-most (Linux 6.3 to 6.5)
accepts  any (Linux 6.6 and newer)
accepts  field AIE: subset (every kernel), another is ignored without an error
hidden   by Linux 6.13 and newer while ID_AA64MMFR3_EL1.TCRX is 0

What may be changed
""")
    lines = [line.split("   ") for line in shown.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert ["When", "Change", "Verdict", "Why, and the evidence"] in cells
    assert ["ID_AA64MMFR3_EL1.TCRX == 0", "remove", "proven", "it has not got it"] in cells
    assert ["(commit 1)"] in cells
    assert ["always", "destination PIE", "lossy", "it may use it"] in cells
    assert ["always", "absent 0x2", "neutral", "it was so"] in cells
    assert ["PIE", "1"] in cells


def test_a_register_of_which_nothing_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    show_register(console(), id_of("FW_STD_BMAP"))
    assert capsys.readouterr().out == (
        "FW_STD_BMAP  0x6030000000160000\n"
        "kind     firmware-bitmap, 64 bits\n"
        "known    nothing: a change of it has the verdict unknown, and is refused\n"
    )


def test_fields_with_their_bits_and_sign(capsys: pytest.CaptureFixture[str]) -> None:
    show_register(console(), id_of("ID_AA64PFR0_EL1"))
    cells = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["AdvSIMD", "23:20", "signed"] in cells
    assert ["EL0", "3:0"] in cells


def test_an_entry_without_anything_special(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bare = parse_knowledge([("bare.toml", b'[[entry]]\nregisters = ["FW_STD_BMAP"]\nlisted = [{}]\nevidence = "e"\n')])
    monkeypatch.setattr(explain_view.Knowledge, "builtin", staticmethod(lambda: bare))
    show_register(console(), id_of("FW_STD_BMAP"))
    assert capsys.readouterr().out.splitlines()[2:] == ["listed   every kernel: always"]
    known = register_document(id_of("FW_STD_BMAP"))["knowledge"]
    assert known == {"listed": "every kernel: always", "accepts": [], "hidden": None, "evidence": "e", "cases": []}


def test_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    explanation = Explanation("on the moon", "it is " + "far " * 40, "walk")
    show_error(console(), explanation)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seen     on the moon"
    assert lines[1].startswith("means    it is far")
    assert lines[2].startswith("         far")
    assert lines[-1] == "do       walk"
    assert error_document(explanation) == {
        "where": "on the moon",
        "meaning": explanation.meaning,
        "todo": "walk",
    }


def test_for_scripts() -> None:
    document = register_document(id_of("TCR2_EL1"))
    fields, known = document.pop("fields"), document.pop("knowledge")
    assert document == {
        "name": "TCR2_EL1",
        "id": "0x603000000013c103",
        "kind": "sysreg",
        "bytes": 8,
        "operands": "op0:3 op1:0 crn:2 crm:0 op2:3",
    }
    assert {"name": "PIE", "shift": 1, "width": 1, "signed": False} in fields
    assert known["hidden"] == "by Linux 6.13 and newer while ID_AA64MMFR3_EL1.TCRX is 0"
    assert known["cases"][1] == {
        "action": "destination",
        "field": "PIE",
        "when": None,
        "value": None,
        "destination": None,
        "verdict": "lossy",
        "reason": "it may use it",
        "evidence": "commit 2",
    }
    unknown = register_document(id_of("0x6020000000110000"))
    assert (unknown["name"], unknown["bytes"], unknown["operands"]) == ("DEMUX_CCSIDR[0]", 4, None)
    assert unknown["knowledge"] is None


def test_a_repair_names_the_kernels_that_need_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = b"""
[[entry]]
registers = ["PMCNTENCLR_EL0"]
listed = [{ feature = "pmu" }]
evidence = "e"
[[entry.case]]
action = "repair"
when = "PMCNTENSET_EL0 != 0"
repair = { complement_of = "PMCNTENSET_EL0", since = "6.7", until = "6.12", patch = 107 }
verdict = "proven"
reason = "it clears what it restores"
evidence = "commit 3"
"""
    knowledge = parse_knowledge([("k.toml", entry)])
    monkeypatch.setattr(explain_view.Knowledge, "builtin", staticmethod(lambda: knowledge))
    register = id_of("PMCNTENCLR_EL0")
    show_register(console(), register)
    shown = " ".join(capsys.readouterr().out.split())
    assert "the destination has Linux 6.7 to 6.12.107 and PMCNTENSET_EL0 != 0" in shown
    (case,) = register_document(register)["knowledge"]["cases"]
    assert (case["destination"], case["when"]) == ("Linux 6.7 to 6.12.107", "PMCNTENSET_EL0 != 0")
