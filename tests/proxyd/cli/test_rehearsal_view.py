"""A rehearsal on the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from proxyd.cli.rehearsal_view import print_rehearsal
from proxyd.rewrite.rehearsal import Finding, FindingKind, Rehearsal

PSCI = 0x6030000000140000
FINDINGS = (
    Finding(0, PSCI, FindingKind.REFUSED, 0x10003, 0x10001, "EINVAL"),
    Finding(1, PSCI, FindingKind.REFUSED, 0x10003, 0x10001, "EINVAL"),
    Finding(1, 0x603000000013C4F6, FindingKind.MISSING, None, 0),
)


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setenv("COLUMNS", "200")
    return Console(file=io.StringIO(), width=200)


def printed(console: Console, *findings: Finding) -> list[str]:
    print_rehearsal(console, Rehearsal(findings, ("psci", "pmu"), "6.12.107", 2, 0.25))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_same_on_several_vcpus_is_one_line(console: Console) -> None:
    lines = printed(console, *FINDINGS)
    (line,) = [line for line in lines if "FW_PSCI_VERSION" in line]
    assert line.split() == ["FW_PSCI_VERSION", "0x6030000000140000", "0-1", "0x10003", "0x10001", "refused", "(EINVAL)"]
    (line,) = [line for line in lines if "PMMIR_EL1" in line]
    assert line.split()[2:5] == ["1", "-", "0x0"]
    assert lines[-1] == (
        "rehearsed: does not load on Linux 6.12.107 (2 refused, 1 missing): 2 vCPUs with psci, pmu, 0.250 s"
    )


def test_nothing_found_is_one_line(console: Console) -> None:
    assert printed(console) == ["", "rehearsed: loads faithfully on Linux 6.12.107: 2 vCPUs with psci, pmu, 0.250 s"]
