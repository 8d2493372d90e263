"""What is said of a rehearsal."""

from __future__ import annotations

import msgspec
import pytest

from formats.arm64.register_id import id_of
from proxyd.rewrite.rehearsal import Finding, FindingKind, Rehearsal
from proxyd.rewrite.verdict import Verdict

PSCI = id_of("FW_PSCI_VERSION")
TCR2 = id_of("TCR2_EL1")
PMCR = id_of("PMCR_EL0")
PMMIR = id_of("PMMIR_EL1")

REFUSED = Finding(1, PSCI, FindingKind.REFUSED, 0x10003, 0x10001, "EINVAL")
UNKNOWN = Finding(0, TCR2, FindingKind.UNKNOWN, 0x1)
CHANGED = Finding(0, PMCR, FindingKind.CHANGED, 0x41, 0x40)
MISSING = Finding(2, PMMIR, FindingKind.MISSING, None, 0x0)


def rehearsal(*findings: Finding) -> Rehearsal:
    return Rehearsal(findings, ("psci", "pmu"), "6.12.107", 3, 0.25)


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (
            REFUSED,
            (
                "vcpu 1: FW_PSCI_VERSION (0x6030000000140000): "
                "the destination's KVM refuses 0x10003 with EINVAL (it has 0x10001)"
            ),
        ),
        (
            UNKNOWN,
            "vcpu 0: TCR2_EL1 (0x603000000013c103): the destination's vCPU does not have it; the stream's value is 0x1",
        ),
        (
            CHANGED,
            (
                "vcpu 0: PMCR_EL0 (0x603000000013dce0): "
                "the destination's KVM takes 0x41 without an error and then has 0x40"
            ),
        ),
        (
            Finding(0, PMCR, FindingKind.CHANGED, 0x41),
            (
                "vcpu 0: PMCR_EL0 (0x603000000013dce0): "
                "the destination's KVM takes 0x41 without an error and then has nothing"
            ),
        ),
        (
            MISSING,
            "vcpu 2: PMMIR_EL1 (0x603000000013c4f6): not in the stream: the destination keeps its own value, 0x0",
        ),
    ],
)
def test_sentences(finding: Finding, text: str) -> None:
    assert str(finding) == text


@pytest.mark.parametrize(
    ("findings", "loads", "faithful", "summary"),
    [
        ((), True, True, "loads faithfully on Linux 6.12.107"),
        ((MISSING,), True, True, "loads faithfully on Linux 6.12.107 (1 missing)"),
        ((CHANGED, MISSING), True, False, "loads, with changes on Linux 6.12.107 (1 changed, 1 missing)"),
        ((REFUSED, REFUSED), False, False, "does not load on Linux 6.12.107 (2 refused)"),
        ((UNKNOWN,), False, False, "does not load on Linux 6.12.107 (1 unknown)"),
    ],
)
def test_what_it_comes_to(findings: tuple[Finding, ...], loads: bool, faithful: bool, summary: str) -> None:
    found = rehearsal(*findings)
    assert (found.loads, found.faithful, found.summary()) == (loads, faithful, summary)


def test_failures_and_what_may_change_by_leave() -> None:
    found = rehearsal(REFUSED, UNKNOWN, CHANGED, MISSING)
    assert found.failures() == (REFUSED, UNKNOWN, CHANGED)
    assert found.failures({PMCR, PSCI, TCR2}) == (REFUSED, UNKNOWN), "nobody can allow what KVM refuses"


def test_refusals_are_those_of_a_plan() -> None:
    changed, refused = rehearsal(CHANGED, REFUSED).refusals()
    assert (changed.verdict, refused.verdict) == (Verdict.LOSSY, Verdict.UNKNOWN)
    assert str(refused) == (
        "vcpu 1: FW_PSCI_VERSION (0x6030000000140000) = 0x10003, 0x10001 at the destination: unknown: rehearsed on "
        "Linux 6.12.107: the destination's KVM refuses 0x10003 with EINVAL (it has 0x10001)"
    )
    assert str(changed).endswith('then has 0x40 (allow = ["PMCR_EL0"] accepts that)')


def test_as_json() -> None:
    assert rehearsal(REFUSED, MISSING).to_json_dict() == {
        "version": 1,
        "loads": False,
        "faithful": False,
        "kernel": "6.12.107",
        "features": ["psci", "pmu"],
        "vcpus": 3,
        "seconds": 0.25,
        "findings": [
            {
                "vcpu": 1,
                "register": "0x6030000000140000",
                "name": "FW_PSCI_VERSION",
                "kind": "refused",
                "wanted": "0x10003",
                "found": "0x10001",
                "errno": "EINVAL",
            },
            {"vcpu": 2, "register": "0x603000000013c4f6", "name": "PMMIR_EL1", "kind": "missing", "found": "0x0"},
        ],
    }


def test_it_travels() -> None:
    found = rehearsal(REFUSED, UNKNOWN, CHANGED, MISSING)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Rehearsal) == found
