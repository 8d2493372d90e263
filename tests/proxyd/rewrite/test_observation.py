"""What was seen to go wrong, from QEMU's log and from proxyd's own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from formats.arm64.register_id import id_of
from proxyd.rewrite.observation import Observation, ObservationKind, observations
from proxyd.rewrite.plan import Refusal
from proxyd.rewrite.verdict import Verdict

PSCI, SCTLR2, PMMIR, MMFR3 = map(id_of, ("FW_PSCI_VERSION", "SCTLR2_EL1", "PMMIR_EL1", "ID_AA64MMFR3_EL1"))
K = ObservationKind


def refusal(register: int, verdict: Verdict, reason: str, field: str | None = None) -> str:
    """A line of proxyd's log."""
    sentence = Refusal(0, register, 3, 1, verdict, reason, field)
    return f"2026-11-23T10:00:00.000Z warning {sentence} migration=0123456789ab route=lab verdict={verdict}"


@pytest.mark.parametrize(
    ("line", "kind", "register", "wanted", "own", "errno"),
    [
        ("qemu: Could not set register fw reg 0 to 10003 (is 10001)", K.REFUSED, PSCI, 0x10003, 0x10001, "EINVAL"),
        (
            "Could not set register system register op0:3 op1:0 crn:1 crm:0 op2:3: unknown to KVM",
            K.HIDDEN, SCTLR2, None, None, "ENOENT",
        ),
        ("Could not set register fw reg 0: Device or resource busy", K.OTHER_ERROR, PSCI, None, None, "EBUSY"),
        (
            "system register op0:3 op1:0 crn:9 crm:14 op2:6 in the incoming stream but unknown on the destination",
            K.NOT_LISTED, PMMIR, None, None, None,
        ),
        ("Invalid value 258 expecting positive value <= 257", K.SOME_NOT_LISTED, None, None, None, None),
        ("load of migration failed: Operation not permitted", K.SOME_NOT_LISTED, None, None, None, None),
        ("Failed to put registers after init: Invalid argument", K.SOME_REFUSED, None, None, None, None),
        (
            refusal(PSCI, Verdict.UNKNOWN, "rehearsed: the destination's KVM refuses 0x3 with EINVAL (it has 0x1)"),
            K.REFUSED, PSCI, 3, 1, "EINVAL",
        ),
        (
            refusal(SCTLR2, Verdict.UNKNOWN, "rehearsed: the KVM refuses 0x0 with ENOENT (it has nothing)"),
            K.HIDDEN, SCTLR2, 0, None, "ENOENT",
        ),
        (
            refusal(PSCI, Verdict.UNKNOWN, "rehearsed: the destination's KVM refuses 0x3 with EBUSY (it has 0x1)"),
            K.OTHER_ERROR, PSCI, 3, 1, "EBUSY",
        ),
        (
            refusal(PSCI, Verdict.LOSSY, "the destination's KVM takes 0x3 without an error and then has 0x1"),
            K.CHANGED, PSCI, 3, 1, None,
        ),
        (
            refusal(PMMIR, Verdict.UNKNOWN, "the destination's vCPU does not have it; the stream's value is 0x3"),
            K.NOT_LISTED, PMMIR, None, None, None,
        ),
        (
            refusal(PMMIR, Verdict.UNKNOWN, "the destination does not list it, and nothing is known of it"),
            K.NOT_LISTED, PMMIR, None, None, None,
        ),
        (
            refusal(
                MMFR3, Verdict.UNKNOWN,
                "while it is off, the destination's kernel hides SCTLR2_EL1 and QEMU's load fails", "SCTLRX",
            ),
            K.HIDDEN, SCTLR2, None, None, None,
        ),
        (refusal(PSCI, Verdict.LOSSY, "calls vanish"), K.REFUSED, PSCI, None, None, None),
    ],
)  # fmt: skip
def test_one_line(
    line: str, kind: ObservationKind, register: int | None, wanted: int | None, own: int | None, errno: str | None
) -> None:
    assert observations(f"before\n{line}\r\nafter\n") == (
        Observation(kind, line.strip(), register, wanted, own, errno),
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Sibling indicated error 1",
        "load of migration failed: Invalid argument",
        "error while loading state for instance 0x0 of device 'cpu'",
        "fw reg 0 expected by the destination but not in the incoming stream: skip it",
        "vcpu 0: TCR2_EL1 (0x603000000013c103) removed (was 0x0), proven: it has none",
        refusal(
            MMFR3, Verdict.UNKNOWN, "while it is off, the destination's kernel hides NOTHING and QEMU's load fails"
        ),
    ],
)
def test_lines_that_show_no_cause(line: str) -> None:
    assert observations(line) == ()


def test_named_registers_once_and_nothing_unnamed_beside_them() -> None:
    found = observations(
        "qemu: Could not set register fw reg 0 to 10003 (is 10001)\n"
        "qemu: error while loading state for instance 0x0 of device 'cpu'\n"
        "qemu: Could not set register fw reg 0 to 10003 (is 10001)\n"
        "qemu: Failed to put registers after init: Invalid argument\n"
    )
    assert [(one.kind, one.register) for one in found] == [(K.REFUSED, PSCI)]


def test_what_names_no_register_counts_where_nothing_else_does() -> None:
    found = observations(
        "qemu: Invalid value 258 expecting positive value <= 257\n"
        "qemu: Failed to load cpu:cpreg_vmstate_array_len\n"
        "qemu: load of migration failed: Invalid argument\n"
    )
    assert [one.said for one in found] == ["qemu: Invalid value 258 expecting positive value <= 257"]


def finding(kind: str, register: int, **more: str) -> dict[str, Any]:
    return {"vcpu": 0, "register": f"{register:#x}", "name": "X", "kind": kind, **more}


def rehearsed(*findings: dict[str, Any]) -> str:
    """What ``proxyd rehearse --json`` prints."""
    rehearsal = {"loads": False, "kernel": "7.3", "findings": list(findings)}
    return json.dumps({"version": 1, "command": "rehearse", "file": "s", "rehearsal": rehearsal}, indent=2)


def test_a_rehearsal_s_document() -> None:
    found = observations(
        rehearsed(
            finding("refused", PSCI, wanted="0x3", found="0x1", errno="EINVAL"),
            finding("refused", PSCI, wanted="0x3", found="0x1", errno="EINVAL"),
            finding("refused", SCTLR2, wanted="0x0", errno="ENOENT"),
            finding("refused", MMFR3, wanted="0x0", found="0x1", errno="EBUSY"),
            finding("unknown", PMMIR, wanted="0x0"),
            finding("changed", PSCI, wanted="0x3", found="0x1"),
            finding("missing", MMFR3, found="0x1"),
        )
    )
    assert [(one.kind, one.register, one.wanted, one.own, one.errno) for one in found] == [
        (K.REFUSED, PSCI, 3, 1, "EINVAL"),
        (K.HIDDEN, SCTLR2, 0, None, "ENOENT"),
        (K.OTHER_ERROR, MMFR3, 0, 1, "EBUSY"),
        (K.NOT_LISTED, PMMIR, 0, None, None),
        (K.CHANGED, PSCI, 3, 1, None),
    ]
    assert found[0].said == "rehearsed: FW_PSCI_VERSION (0x6030000000140000) refused, sent 0x3, there 0x1, EINVAL"
    assert found[3].said == "rehearsed: PMMIR_EL1 (0x603000000013c4f6) unknown, sent 0x0"


@pytest.mark.parametrize(
    "text", ["{}", "[]", "{", rehearsed(), rehearsed(finding("refused", PSCI) | {"register": "PSCI"})]
)
def test_another_document_shows_nothing(text: str) -> None:
    assert observations(text) == ()
