"""QEMU's texts are recognised as they were seen, by the version that prints them."""

from __future__ import annotations

import pytest

from formats.arm64.register_id import id_of
from proxyd.cli.qemu_errors import explain_error
from proxyd.rewrite.plan import Refusal
from proxyd.rewrite.rewriter import NO_RETURN_PATH
from proxyd.rewrite.verdict import Verdict

PSCI = id_of("FW_PSCI_VERSION")

SEEN = {
    "qemu: Invalid value 258 expecting positive value <= 257\nqemu: Failed to load cpu:cpreg_vmstate_array_len":
        "more registers than the destination's has",
    "cpreg_vmstate_array_len": "more registers than the destination's has",
    "qemu: Failed to put registers after init: Invalid argument": "this QEMU does not say which",
    "qemu: error while loading state for instance 0x0 of device 'cpu'": "A vCPU's state could not be loaded",
    "qemu: load of migration failed: Operation not permitted": "although the lists' lengths fit",
    "qemu: load of migration failed: Invalid argument": "says only the kind of error",
    "Could not set register fw reg 0 to 10003 (is 10001)": "a firmware register",
    "Could not set register system register op0:3 op1:0 crn:1 crm:0 op2:3: unknown to KVM":
        "an ID register's value in the stream",
    "Could not set register op0:3 op1:0 crn:0 crm:7 op2:2 to 220011100001011 (is 220011102001011)":
        "refused the value of this register",
    "handle_cpreg_only_in_incoming_stream: system register op0:3 op1:0 crn:9 crm:14 op2:6 in the incoming stream but "
    "unknown on the destination: fail migration": "this is not one of them",
    "Sibling indicated error 1": "The source has resumed the guest",
    "Could not set register fw feat reg 2 to 3 (is 1)": "a bitmap of hypercall services",
    "Could not set register op0:3 op1:0 crn:0 crm:4 op2:0: Device or resource busy": "EBUSY",
    "Could not set register SVE zreg n:0 slice:0: Operation not permitted": "EPERM",
    "Could not set register demuxed reg 6020000000110000 to 7 (is 2)": "refused the value of this register",
    "handle_cpreg_missing_in_incoming_stream: fw feat reg 3 expected by the destination but not in the incoming "
    "stream: skip it": "A warning, not the failure",
    "EBUSY": "only until a vCPU has run",
    "KVM_SET_ONE_REG failed: Invalid argument": "does not take the value",
    "ioctl(KVM_SET_ONE_REG) = -1 ENOENT (No such file or directory)": "this vCPU has no such register",
    "KVM_SET_ONE_REG: Operation not permitted": "before the vCPU's features are finalized",
    "kvm [1391196]: Unsupported guest sys_reg access at: ffff80001003c2b4 [20400085]": "undefined instruction",
    "kvm [1391179]:  { Op0( 3), Op1( 0), CRn( 9), CRm(14), Op2( 6), func_read },": "undefined instruction",
    "operation failed: migration out job: unexpectedly failed": "The connection went away",
    "Unable to write to socket: Broken pipe": "The connection went away",
    # Seen when proxyd refuses (11.1.3): at the source, and at the destination.
    "Unable to read from socket: Connection reset by peer": "The connection went away",
    "qemu: load of migration failed: Input/output error: Failed to load section ID: stream error: -5: Unable to read "
    "from socket: Connection reset by peer": "before the stream was whole",
    # Seen when the destination's QEMU dies over a register (11.1.3), at the source.
    "Channel error: Input/output error": "The connection went away",
}  # fmt: skip


OWN = {
    str(Refusal(0, PSCI, 0x10003, 0x10001, Verdict.LOSSY, "calls vanish")): "the guest may notice",
    str(Refusal(0, PSCI, 1, None, Verdict.UNKNOWN, "nothing is known of it")): "the knowledge base does not say",
    str(
        Refusal(
            0, PSCI, 3, 1, Verdict.UNKNOWN,
            "rehearsed on Linux 7.3: the destination's KVM refuses 0x3 with EINVAL (it has 0x1)",
        )
    ): "A rehearsal on the destination's own KVM",
    str(
        Refusal(
            0, PSCI, 3, 1, Verdict.LOSSY,
            "rehearsed on Linux 7.3: the destination's KVM takes 0x3 without an error and then has 0x1",
        )
    ): "A rehearsal on the destination's own KVM",
    f"refused: {NO_RETURN_PATH}": "was not told to wait for the destination's answer",
    "unsupported: this is a multifd channel, which is not supported by this version (...)": "does not carry",
    "destination_failed: the destination said SHUT(1): it failed to load, and the source resumes its guest":
        "did not load what it was given",
    "destination_failed: the destination ended without a SHUT: it closed the connection": "did not load",
}  # fmt: skip


@pytest.mark.parametrize("text", OWN)
def test_what_proxyd_says_itself(text: str) -> None:
    explanation = explain_error(text)
    assert explanation is not None
    assert OWN[text] in explanation.meaning
    assert explanation.where.startswith("proxyd's log")
    assert not explanation.follows


@pytest.mark.parametrize("text", SEEN)
def test_recognised(text: str) -> None:
    explanation = explain_error(text)
    assert explanation is not None
    assert SEEN[text] in explanation.meaning
    assert explanation.where
    assert explanation.todo
    assert "\n" not in explanation.meaning + explanation.todo


def test_the_whole_of_what_qemu_printed_is_explained_by_its_most_particular_line() -> None:
    explanation = explain_error(
        "qemu: Invalid value 258 expecting positive value <= 257\n"
        "qemu: Failed to load cpu:cpreg_vmstate_array_len\n"
        "qemu: error while loading state for instance 0x0 of device 'cpu'\n"
        "qemu: load of migration failed: Invalid argument\n"
    )
    assert explanation is not None
    assert "compares the lengths" in explanation.meaning


def test_what_is_not_known() -> None:
    assert explain_error("TCR2_EL1") is None
    assert explain_error("no space left on device") is None


def test_the_particular_rank_before_the_general() -> None:
    texts = list(RANKED)
    ranks = [explanation.rank for text in texts if (explanation := explain_error(text)) is not None]
    assert len(ranks) == len(texts)
    assert ranks == sorted(set(ranks))
    for text in texts:
        explanation = explain_error(text)
        assert explanation is not None
        assert explanation.follows is RANKED[text]


RANKED = {
    "Could not set register fw reg 0 to 10003 (is 10001)": False,
    "Failed to put registers after init: Invalid argument": True,
    "load of migration failed: Operation not permitted": True,
    "error while loading state for instance 0x0 of device 'cpu'": True,
    "Sibling indicated error 1": False,
    "load of migration failed: Invalid argument": True,
}
