"""What ``proxyd diff`` shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.cli.comparison import compare
from proxyd.cli.diff_view import document, show
from proxyd.cli.subject import Subject
from proxyd.cli.terminal import console
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.host_diff import HostDifference
from proxyd.rewrite.host_traits import Severity, Statement, Way
from proxyd.rewrite.plan import VcpuRegisters
from proxyd.rewrite.verdict import Verdict
from tests.proxyd.cli.command import Run

MMFR2, TPIDR, TCR2, PSCI = map(id_of, ("ID_AA64MMFR2_EL1", "TPIDR_EL1", "TCR2_EL1", "FW_PSCI_VERSION"))


def stream(name: str, *vcpus: dict[int, int]) -> Subject:
    return Subject(name, tuple(VcpuRegisters(n, CpregList(one)) for n, one in enumerate(vcpus)), machine="virt-10.0")


A = stream("old\x1b.bin", {TCR2: 0, MMFR2: 0, TPIDR: 7, PSCI: 1 << 63}, {TCR2: 0, MMFR2: 0, TPIDR: 8})
B = stream("new.bin", {MMFR2: 0x2000000, TPIDR: 9, PSCI: 0})


def test_for_people(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    show(console(), A, B, compare(A, B))
    assert capsys.readouterr().out == (
        r"A  old\x1b.bin: stream, machine virt-10.0, 2 vCPUs of 3 or 4 registers"
        """
B  new.bin: stream, machine virt-10.0, 1 vCPU of 3 registers
vCPUs only in A, not compared: 1

Only in A: 1
Register   Id                   vCPU   A     B
──────────────────────────────────────────────
TCR2_EL1   0x603000000013c103   0      0x0   -

Another value, identification and firmware: 2
Register           Id                   vCPU   Field        A                    B
──────────────────────────────────────────────────────────────────────────────────────────
ID_AA64MMFR2_EL1   0x603000000013c03a   0                   0x0                  0x2000000
                                               NV           0                    2
FW_PSCI_VERSION    0x6030000000140000   0                   0x8000000000000000   0x0
                                               other bits   0x8000000000000000   0x0

Another value, registers that the guest writes: 1
Register    Id                   vCPU   A     B
─────────────────────────────────────────────────
TPIDR_EL1   0x603000000013c684   0      0x7   0x9
"""
    )


def test_only_in_b_and_vcpus_only_in_b(capsys: pytest.CaptureFixture[str]) -> None:
    show(console(), B, A, compare(B, A))
    shown = capsys.readouterr().out
    assert "vCPUs only in B, not compared: 1\n" in shown
    assert "Only in B: 1\n" in shown
    assert "Only in A" not in shown


def test_no_difference(run: Run, stream: Path) -> None:
    ran = run("diff", stream, stream)
    assert ran.code == 0
    assert ran.out.endswith("\nno difference\n")


def test_for_scripts() -> None:
    host = HostDescription("h", CpregList({TPIDR: 7, TCR2: 0, PSCI: 1}))
    described = Subject("h.json", (VcpuRegisters(0, host.registers),), host=host)
    assert document(B, described, compare(B, described)) == {
        "a": {"file": "new.bin", "kind": "stream", "vcpus": [0]},
        "b": {"file": "h.json", "kind": "host", "vcpus": [0]},
        "vcpus_only_in_a": [],
        "vcpus_only_in_b": [],
        "only_in_a": [
            {"name": "ID_AA64MMFR2_EL1", "id": f"{MMFR2:#x}", "vcpus": [0], "a": "0x2000000", "b": None, "fields": []}
        ],
        "only_in_b": [{"name": "TCR2_EL1", "id": f"{TCR2:#x}", "vcpus": [0], "a": None, "b": "0x0", "fields": []}],
        "other_value": [
            {"name": "TPIDR_EL1", "id": f"{TPIDR:#x}", "vcpus": [0], "a": "0x9", "b": "0x7", "fields": []},
            {
                "name": "FW_PSCI_VERSION",
                "id": f"{PSCI:#x}",
                "vcpus": [0],
                "a": "0x0",
                "b": "0x1",
                "fields": [{"field": "MINOR", "a": 0, "b": 1}],
            },
        ],
        "guests": None,
    }


GUESTS = HostDifference(
    (
        Statement(Way.A_TO_B, Severity.REFUSED, "registers", "PSCI is too new", (PSCI,), Verdict.LOSSY),
        Statement(Way.BOTH, Severity.BREAKS, "counter_hz", "time\x1b runs wrong"),
    )
)


def test_what_it_means_for_guests_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    show(console(), A, B, compare(A, B), GUESTS)
    shown = capsys.readouterr().out.splitlines()
    assert shown[4].split() == ["Severity", "Guests", "from", "A", "to", "B"]
    assert shown[6].split() == ["refused", "PSCI", "is", "too", "new"]
    assert shown[8].split() == ["Severity", "Either", "way"]
    assert shown[10].split() == ["breaks", "time\\x1b", "runs", "wrong"]
    assert shown[12] == "Only in A: 1"


def test_what_it_means_for_guests_for_scripts() -> None:
    refused, breaks = document(A, B, compare(A, B), GUESTS)["guests"]
    assert refused == {
        "way": "a-to-b",
        "severity": "refused",
        "subject": "registers",
        "text": "PSCI is too new",
        "verdict": "lossy",
        "registers": [{"name": "FW_PSCI_VERSION", "id": f"{PSCI:#x}"}],
    }
    assert (breaks["verdict"], breaks["registers"]) == (None, [])
