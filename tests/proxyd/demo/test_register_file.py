"""The stand-in for KVM refuses what real kernels were seen to refuse, and nothing that they took."""

from __future__ import annotations

import pytest

from proxyd.demo.register_file import Host, Refused, RegisterFile

PSCI_VERSION = 0x6030000000140000
WORKAROUND_1 = 0x6030000000140001
VENDOR_HYP_BMAP = 0x6030000000160002
ID_AA64PFR0_EL1 = 0x603000000013C020
ID_AA64MMFR2_EL1 = 0x603000000013C03A
ID_AA64MMFR3_EL1 = 0x603000000013C03B
SCTLR2_EL1 = 0x603000000013C083
TCR2_EL1 = 0x603000000013C103
TPIDR_EL1 = 0x603000000013C684


def vcpu(registers: dict[int, int], masks: dict[int, int] | None = None) -> RegisterFile:
    return RegisterFile(Host(registers, masks or {}))


def test_a_value_is_kept() -> None:
    registers = vcpu({TPIDR_EL1: 0})
    assert registers.set_one_reg(TPIDR_EL1, 0xC0FFEE) is None
    assert registers.values == {TPIDR_EL1: 0xC0FFEE}
    assert registers.host.registers == {TPIDR_EL1: 0}


def test_a_register_that_is_not_listed_is_unknown() -> None:
    registers = vcpu({TPIDR_EL1: 0})
    assert registers.set_one_reg(TCR2_EL1, 0) is Refused.UNKNOWN
    assert registers.values == {TPIDR_EL1: 0}


@pytest.mark.parametrize(
    ("register", "own", "value", "answer"),
    [
        # 6.16 and newer to 6.12, every CPU
        (PSCI_VERSION, 0x10001, 0x10003, Refused.VALUE),
        (PSCI_VERSION, 0x10003, 0x10001, None),
        (WORKAROUND_1, 1, 2, Refused.VALUE),
        (WORKAROUND_1, 1, 0, None),
        (VENDOR_HYP_BMAP, 0b01, 0b10, Refused.VALUE),
        (VENDOR_HYP_BMAP, 0b11, 0b10, None),
        # fields that are not above the host's own
        (ID_AA64MMFR2_EL1, 0x0220011102001011, 0x0220011102001011, None),
        (ID_AA64MMFR2_EL1, 0x0220011102001011, 0x0220011102001010, None),
        # CCIDX 1 where the host hides it: 6.1 to 6.12 on neoverse-v1
        (ID_AA64MMFR2_EL1, 0x0220011102001011, 0x0220011102101011, Refused.VALUE),
        # FP and AdvSIMD: 0xf is "not implemented", and less than 0
        (ID_AA64PFR0_EL1, 0x0000000000000011, 0x0000000000FF0011, None),
        (ID_AA64PFR0_EL1, 0x0000000000FF0011, 0x0000000000000011, Refused.VALUE),
    ],
)
def test_values(register: int, own: int, value: int, answer: Refused | None) -> None:
    assert vcpu({register: own}).set_one_reg(register, value) is answer


def test_bits_outside_the_writable_mask_must_be_the_hosts_own() -> None:
    # NV is not writable on 6.12, which refuses 0 where it has 2
    own, mask = 0x0220011102001011, 0xFFFFFFFFF0FFFFFF
    assert (
        vcpu({ID_AA64MMFR2_EL1: own}, {ID_AA64MMFR2_EL1: mask}).set_one_reg(ID_AA64MMFR2_EL1, 0x0220011100001011)
        is Refused.VALUE
    )
    assert (
        vcpu({ID_AA64MMFR2_EL1: own}, {ID_AA64MMFR2_EL1: mask}).set_one_reg(ID_AA64MMFR2_EL1, 0x0220011102001001)
        is None
    )


def test_a_register_is_hidden_while_its_feature_is_switched_off() -> None:
    registers = vcpu({ID_AA64MMFR3_EL1: 0x11, SCTLR2_EL1: 0, TCR2_EL1: 0})
    assert registers.set_one_reg(ID_AA64MMFR3_EL1, 0x01) is None
    assert registers.set_one_reg(SCTLR2_EL1, 0) is Refused.UNKNOWN
    assert registers.set_one_reg(TCR2_EL1, 0) is None
    assert registers.set_one_reg(ID_AA64MMFR3_EL1, 0x11) is None
    assert registers.set_one_reg(SCTLR2_EL1, 0) is None


def test_a_kernel_that_lists_a_register_without_its_feature_hides_nothing() -> None:
    # 6.12 lists TCR2_EL1 on every CPU
    registers = vcpu({ID_AA64MMFR3_EL1: 0, TCR2_EL1: 0})
    assert registers.set_one_reg(TCR2_EL1, 0) is None
