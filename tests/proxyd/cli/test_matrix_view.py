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

MIDR, TTBR0, PSCI = map(id_of, ("MIDR_EL1", "TTBR0_EL1", "FW_PSCI_VERSION"))

OLD = HostDescription("old", CpregList({MIDR: 1, PSCI: 0x10001}), kernel="6.18.3", features=("psci",))
NEW = HostDescription("new", CpregList({MIDR: 1, TTBR0: 0, PSCI: 0x10003}), features=("psci",))


def subjects() -> list[Subject]:
    return [Subject(f"{host.name}\x1b.json", (VcpuRegisters(0, host.registers),), host=host) for host in (OLD, NEW)]


@pytest.fixture
def matrix() -> HostMatrix:
    return make_matrix([OLD, NEW], Knowledge.builtin())


def test_for_people(matrix: HostMatrix, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    print_matrix(console(), subjects(), matrix)
    assert (
        capsys.readouterr().out
        == r"""A  old\x1b.json: host old, Linux 6.18.3, 2 registers
B  new\x1b.json: host new, 3 registers

Guests of   to A 6.18                  to B
────────────────────────────────────────────
A 6.18      as is                      as is
B           refused, TTBR0_EL1 (1-2)   as is

Reasons
No   Effect    Verdict   Registers, and why
────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
1    refused   unknown   TTBR0_EL1: the destination does not list it, and nothing is known of it
2    refused   lossy     FW_PSCI_VERSION: calls of the newer PSCI version vanish under a guest that found them at boot
                         (1.3: SYSTEM_OFF2; 1.1: SYSTEM_RESET2, SYSTEM_SUSPEND) (allow = ["FW_PSCI_VERSION"] accepts
                         that)

2 ways between 2 hosts: 1 as is, 1 refused
"""
    )


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
    assert cell_text(Cell(0, 1, None, outcome, worst, register, field, decisive, decisive)) == text


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
        "register": f"{TTBR0:#x}",
        "name": "TTBR0_EL1",
        "field": None,
        "reasons": [1, 2],
        "decisive": [1, 2],
    }
    assert made["reasons"][0] == {
        "number": 1,
        "effect": "refused",
        "verdict": "unknown",
        "text": "the destination does not list it, and nothing is known of it",
        "registers": [{"name": "TTBR0_EL1", "id": f"{TTBR0:#x}"}],
    }
    alike = document([subjects()[0]] * 2, make_matrix([OLD, OLD], Knowledge.builtin()))
    assert alike["outcome"] == "all-load"
    assert alike["cells"][0]["register"] is None
