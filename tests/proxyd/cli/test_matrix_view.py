"""What ``proxyd plan`` shows of host sets."""

from __future__ import annotations

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.cli.matrix_view import cell_text, document, letter, print_matrix, summary
from proxyd.cli.subject import Subject
from proxyd.cli.terminal import console
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.host_matrix import Cell, CellOutcome, HostMatrix, make_matrix
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import VcpuRegisters
from proxyd.rewrite.verdict import Verdict

MIDR, PSCI = id_of("MIDR_EL1"), id_of("FW_PSCI_VERSION")
UNKNOWN = 0x603000000013FFFF  # no register

OLD = HostDescription("old", CpregList({MIDR: 1, PSCI: 0x10001}), kernel="6.18.3", features=("psci",))
NEW = HostDescription("new", CpregList({MIDR: 1, UNKNOWN: 0, PSCI: 0x10003}), features=("psci",))


def subjects() -> list[Subject]:
    return [Subject(f"{host.name}\x1b.json", (VcpuRegisters(0, host.registers),), host=host) for host in (OLD, NEW)]


@pytest.fixture
def matrix() -> HostMatrix:
    return make_matrix([OLD, NEW], Knowledge.builtin())


SHOWN = r"""A  old\x1b.json: host old, Linux 6.18.3, 2 registers
B  new\x1b.json: host new, 3 registers

Guests of   to A 6.18                                        to B
─────────────────────────────────────────────────────────────────────────────────────────────────────────
A 6.18      as is                                            refused, op0:3 op1:7 crn:15 crm:15 op2:7 (1)
B           refused, op0:3 op1:7 crn:15 crm:15 op2:7 (2-3)   as is

Reasons
No   Effect    Verdict   Registers, and why
────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
1    refused   unknown   op0:3 op1:7 crn:15 crm:15 op2:7: not in the stream: the guest would go on with a value that the
                         destination makes up
2    refused   unknown   op0:3 op1:7 crn:15 crm:15 op2:7: the destination does not list it, and nothing is known of it
3    refused   lossy     FW_PSCI_VERSION: calls of the newer PSCI version vanish under a guest that found them at boot
                         (1.3: SYSTEM_OFF2; 1.1: SYSTEM_RESET2, SYSTEM_SUSPEND) (accepted if allowed by name)

2 ways between 2 hosts: 2 refused
"""


def test_for_people(matrix: HostMatrix, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    print_matrix(console(), subjects(), matrix)
    assert capsys.readouterr().out == SHOWN


def test_hosts_that_are_alike_need_no_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    same = make_matrix([OLD, OLD], Knowledge.builtin())
    print_matrix(console(), [subjects()[0]] * 2, same)
    shown = capsys.readouterr().out
    assert "Reasons" not in shown
    assert shown.endswith("\n2 ways between 2 hosts: 2 as is\n")


@pytest.mark.parametrize(
    ("outcome", "worst", "register", "field", "decisive", "text"),
    [
        (CellOutcome.LOADS_AS_IS, None, None, None, (), "as is"),
        (CellOutcome.LOADS_REWRITTEN, Verdict.NEUTRAL, None, None, (1, 2, 3, 7), "rewritten, neutral (1-3,7)"),
        (CellOutcome.LOADS_REWRITTEN, None, None, None, (1,), "rewritten (1)"),
        (CellOutcome.REFUSED, Verdict.LOSSY, MIDR, None, (4,), "refused, MIDR_EL1 (4)"),
        (CellOutcome.REFUSED, Verdict.LOSSY, MIDR, "PARTNUM", (4,), "refused, MIDR_EL1.PARTNUM (4)"),
        (CellOutcome.REFUSED, None, None, None, (5,), "refused (5)"),
        (CellOutcome.BREAKS, None, None, None, (6,), "breaks (6)"),
        (CellOutcome.NO_GUEST, None, None, None, (8,), "no guest (8)"),
    ],
)
def test_a_cell(
    outcome: CellOutcome,
    worst: Verdict | None,
    register: int | None,
    field: str | None,
    decisive: tuple[int, ...],
    text: str,
) -> None:
    assert cell_text(Cell(0, 1, (), outcome, worst, register, field, decisive, decisive)) == text


def test_letters() -> None:
    assert [letter(place) for place in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]


def test_a_way_to_itself_does_not_count() -> None:
    assert summary(make_matrix([OLD], Knowledge.builtin())) == "0 ways between 1 hosts: "


def test_for_scripts(matrix: HostMatrix) -> None:
    made = document(subjects(), matrix)
    assert made["outcome"] == "refused"
    assert made["hosts"][0] == {
        "file": "old\x1b.json", "name": "old", "kernel": "6.18.3", "cpu": None, "features": ["psci"],
    }  # fmt: skip
    assert made["cells"][2] == {
        "source": 1,
        "destination": 0,
        "features": ["psci"],
        "outcome": "refused",
        "worst": "unknown",
        "register": f"{UNKNOWN:#x}",
        "name": "op0:3 op1:7 crn:15 crm:15 op2:7",
        "field": None,
        "reasons": [2, 3],
        "decisive": [2, 3],
        "unaided": "fails",
    }
    assert made["reasons"][1] == {
        "number": 2,
        "effect": "refused",
        "verdict": "unknown",
        "text": "the destination does not list it, and nothing is known of it",
        "registers": [{"name": "op0:3 op1:7 crn:15 crm:15 op2:7", "id": f"{UNKNOWN:#x}"}],
    }
    alike = document([subjects()[0]] * 2, make_matrix([OLD, OLD], Knowledge.builtin()))
    assert alike["outcome"] == "all-load"
    assert alike["cells"][0]["register"] is None
