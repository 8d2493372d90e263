"""A pasted log, by kind of error."""

from __future__ import annotations

from formats.arm64.register_id import id_of
from formats.qemu_log import LogKind
from proxyd.cli.log_explained import explain_log

PSCI, SCTLR2 = id_of("FW_PSCI_VERSION"), id_of("SCTLR2_EL1")

# What QEMU 11.1 prints for a guest of two vCPUs: every register twice, and what follows.
LOG = """
char device redirected to /dev/pts/0 (label serial0)
qemu: error while loading state for instance 0x0 of device 'cpu'
qemu: Could not set register system register op0:3 op1:0 crn:1 crm:0 op2:3: unknown to KVM
qemu: Could not set register fw reg 0 to 10003 (is 10001)
qemu: Could not set register system register op0:3 op1:0 crn:1 crm:0 op2:3: unknown to KVM
2: qemu: Could not set register fw reg 0 to 10003 (is 10001)
qemu: Failed to put registers after init: Invalid argument
"""


def test_the_most_particular_cause_comes_first_and_each_once() -> None:
    log = explain_log(LOG)
    assert log.others == 1
    assert [one.lines[0] for one in log.errors] == [
        "qemu: Could not set register fw reg 0 to 10003 (is 10001)",
        "qemu: Could not set register system register op0:3 op1:0 crn:1 crm:0 op2:3: unknown to KVM",
        "qemu: Failed to put registers after init: Invalid argument",
        "qemu: error while loading state for instance 0x0 of device 'cpu'",
    ]
    assert log.registers == (PSCI, SCTLR2)
    firmware, hidden, *consequences = log.errors
    assert log.causes == (firmware, hidden)
    assert log.consequences == tuple(consequences)
    assert len(firmware.lines) == 2, "as they stand in the log"
    assert [(fact.kind, fact.wanted) for fact in firmware.facts] == [(LogKind.VALUE_REFUSED, 0x10003)]
    assert [fact.text for fact in firmware.facts] == [firmware.lines[0]]
    assert hidden.registers == (SCTLR2,)


def test_what_only_follows_is_the_cause_where_there_is_no_other() -> None:
    log = explain_log(
        "qemu: error while loading state for instance 0x0 of device 'cpu'\n"
        "qemu: load of migration failed: Operation not permitted\n"
    )
    (cause,) = log.causes
    assert cause.lines == ("qemu: load of migration failed: Operation not permitted",)
    assert len(log.consequences) == 1


def test_nothing_known() -> None:
    log = explain_log("one\n\ntwo\n")
    assert (log.errors, log.causes, log.consequences, log.registers, log.others) == ((), (), (), (), 2)


def test_the_kernels_two_lines_are_one_error() -> None:
    (one,) = explain_log(
        "[1] kvm [7]: Unsupported guest sys_reg access at: ffff80001003c2b4 [20400085]\n"
        "[1] kvm [7]:  { Op0( 3), Op1( 0), CRn( 9), CRm(14), Op2( 6), func_read },\n"
    ).errors
    assert one.registers == (id_of("PMMIR_EL1"),)
    assert one.facts == ()
