"""A plan for people: one line for what holds for several vCPUs."""

from __future__ import annotations

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.cli.plan_view import change_text, print_changes, print_notices, print_plan, print_unaided, summary
from proxyd.cli.terminal import console
from proxyd.rewrite.plan import Action, Change, Notice, Outcome, Plan, Refusal, VcpuRegisters
from proxyd.rewrite.unaided import Unaided
from proxyd.rewrite.verdict import Verdict

TCR2, PSCI, MMFR2 = map(id_of, ("TCR2_EL1", "FW_PSCI_VERSION", "ID_AA64MMFR2_EL1"))


def change(vcpu: int, action: Action, register: int, old: int | None, new: int | None, **more: object) -> Change:
    verdict = more.pop("verdict", Verdict.PROVEN)
    field = more.pop("field", None)
    return Change(vcpu, action, register, field, old, new, verdict, "because", "knowledge", **more)  # type: ignore[arg-type]


REMOVED = [change(vcpu, Action.REMOVE, TCR2, 0, None) for vcpu in (0, 1, 3)]
SET = change(0, Action.SET, MMFR2, 1, 0, field="CCIDX", verdict=Verdict.NEUTRAL)
LOWERED = change(0, Action.SET, PSCI, 0x10003, 0x10001, verdict=Verdict.LOSSY, allowed=True)
ADDED = change(0, Action.ADD, TCR2, None, 5)
VCPUS = tuple(VcpuRegisters(n, CpregList({TCR2: 0})) for n in range(4))


def plan(*changes: Change, refusals: tuple[Refusal, ...] = (), notices: tuple[Notice, ...] = ()) -> Plan:
    outcome = Outcome.REFUSED if refusals else Outcome.LOADS_REWRITTEN if changes else Outcome.LOADS_AS_IS
    return Plan(outcome, changes, refusals, notices, VCPUS, VCPUS)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def rows(text: str) -> list[list[str]]:
    """The cells of every line, columns being set apart by three blanks."""
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in text.splitlines() if line.strip()]


def test_what_a_change_does() -> None:
    assert change_text(REMOVED[0]) == "removed (was 0x0)"
    assert change_text(SET) == "0x1 -> 0x0"
    assert change_text(ADDED) == "added as 0x5"


def test_changes(capsys: pytest.CaptureFixture[str]) -> None:
    print_changes(console(), [*REMOVED, SET, LOWERED])
    title, header, _, *lines = rows(capsys.readouterr().out)
    assert title == ["Changes"]
    assert header == ["Register", "Id", "vCPU", "Change", "Verdict", "Why"]
    assert lines == [
        ["TCR2_EL1", f"{TCR2:#x}", "0-1,3", "removed (was 0x0)", "proven", "because"],
        ["ID_AA64MMFR2_EL1.CCIDX", f"{MMFR2:#x}", "0", "0x1 -> 0x0", "neutral", "because"],
        ["FW_PSCI_VERSION", f"{PSCI:#x}", "0", "0x10003 -> 0x10001", "lossy", "because (allowed by name)"],
    ]


def test_notices(capsys: pytest.CaptureFixture[str]) -> None:
    print_notices(console(), [Notice(0, TCR2, "kept"), Notice(1, TCR2, "kept"), Notice(0, None, "a newer kernel")])
    title, header, _, *lines = rows(capsys.readouterr().out)
    assert title == ["Not changed, and worth knowing"]
    assert header == ["Register", "Id", "vCPU", "Note"]
    assert lines == [["TCR2_EL1", f"{TCR2:#x}", "0-1", "kept"], ["-", "-", "0", "a newer kernel"]]


def test_a_refused_plan(capsys: pytest.CaptureFixture[str]) -> None:
    refusals = tuple(
        Refusal(vcpu, register, value, theirs, Verdict.UNKNOWN, "nobody knows", field)
        for vcpu in (0, 1)
        for register, value, theirs, field in ((TCR2, 5, None, None), (MMFR2, 1, 0, "CCIDX"))
    )
    print_plan(console(), plan(*REMOVED, refusals=refusals))
    lines = rows(capsys.readouterr().out)
    assert ["Refused"] in lines
    assert ["Register", "Id", "vCPU", "Here", "Destination", "Verdict", "Why"] in lines
    assert ["TCR2_EL1", f"{TCR2:#x}", "0-1", "0x5", "-", "unknown", "nobody knows"] in lines
    assert ["ID_AA64MMFR2_EL1.CCIDX", f"{MMFR2:#x}", "0-1", "0x1", "0x0", "unknown", "nobody knows"] in lines
    assert lines[-1] == ["refused: 1 change (1 proven), 2 refusals, 4 vCPUs"]


def test_a_plan_without_anything_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(console(), plan())
    assert capsys.readouterr().out == "\nloads as it is: 0 changes, 4 vCPUs\n"


def test_figures_count_registers_not_vcpus() -> None:
    assert summary(plan(*REMOVED, SET, LOWERED)) == "3 changes (1 proven, 1 neutral, 1 lossy), 4 vCPUs"


@pytest.mark.parametrize(
    ("unaided", "line"),
    [
        (Unaided(), "without proxyd it would load, and nothing would be lost"),
        (Unaided(fails=("a", "b"), changes=("c",)), "without proxyd the load would fail: a (and 1 more)"),
        (Unaided(changes=("c",)), "without proxyd it would load, and change the guest without an error: c"),
        (Unaided(unknown=("d",), changes=("c",)), "without proxyd nobody can say what would happen: d"),
    ],
)
def test_what_would_happen_without_proxyd(unaided: Unaided, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_unaided(console(), unaided)
    assert capsys.readouterr().out == f"\n{line}\n"
