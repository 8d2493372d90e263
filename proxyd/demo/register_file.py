"""What KVM does with QEMU's register list: a stand-in for KVM_SET_ONE_REG on one vCPU.

It knows the refusals that were measured on real kernels (Linux 6.1 to 7.3), not KVM:

* a register that an ID register's value switches off is not there (ENOENT);
* an ID register takes what its writable mask allows, and no field above the host's own (EINVAL);
* a PSCI version or a firmware workaround above the host's own, or a firmware feature it has not (EINVAL).

Mirrors ``arch/arm64/kvm/sys_regs.c: set_id_reg`` and ``hypercalls.c: kvm_arm_set_fw_reg``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Refused(StrEnum):
    """Why KVM_SET_ONE_REG failed."""

    UNKNOWN = "ENOENT"
    VALUE = "EINVAL"


ID_AA64PFR0_EL1: Final = 0x603000000013C020
ID_AA64PFR2_EL1: Final = 0x603000000013C022
ID_AA64MMFR3_EL1: Final = 0x603000000013C03B

# Registers that are there only while a 4-bit field of an ID register is not zero: (ID register, shift).
_SWITCHED_BY: Final = {
    0x603000000013C083: (ID_AA64MMFR3_EL1, 4),  # SCTLR2_EL1 by SCTLRX
    0x603000000013C103: (ID_AA64MMFR3_EL1, 0),  # TCR2_EL1 by TCRX
    0x603000000013C512: (ID_AA64MMFR3_EL1, 8),  # PIRE0_EL1 by S1PIE
    0x603000000013C513: (ID_AA64MMFR3_EL1, 8),  # PIR_EL1 by S1PIE
    0x603000000013DA22: (ID_AA64PFR2_EL1, 32),  # FPMR by FPMR
}

# op0 3, op1 0, CRn 0, CRm 1 to 7: the ID registers that are made of 4-bit fields.
_FEATURE_ID_REGISTERS: Final = range(0x603000000013C008, 0x603000000013C040)

# Fields in which 0xf means "not implemented" and is less than 0: FP and AdvSIMD.
_SIGNED_SHIFTS: Final = {ID_AA64PFR0_EL1: (16, 20)}

# KVM_REG_ARM_PSCI_VERSION and the three KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_*: a higher number is more.
_FIRMWARE_LEVELS: Final = range(0x6030000000140000, 0x6030000000140004)

# KVM_REG_ARM_*_BMAP*: one bit for each service.
_FIRMWARE_BITMAPS: Final = range(0x6030000000160000, 0x6030000000160010)


@dataclass(frozen=True, slots=True)
class Host:
    """A kernel's register list with the values of a fresh vCPU, and what KVM_ARM_GET_REG_WRITABLE_MASKS says."""

    registers: Mapping[int, int]
    writable_masks: Mapping[int, int]


@dataclass(slots=True)
class RegisterFile:
    """One vCPU's registers."""

    host: Host
    values: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.values = dict(self.host.registers)

    def set_one_reg(self, register: int, value: int) -> Refused | None:
        """KVM_SET_ONE_REG. None is success."""
        if register not in self.values or self._switched_off(register):
            return Refused.UNKNOWN
        if not self._accepts(register, value, self.host.registers[register]):
            return Refused.VALUE
        self.values[register] = value
        return None

    def _switched_off(self, register: int) -> bool:
        if register not in _SWITCHED_BY:
            return False
        id_register, shift = _SWITCHED_BY[register]
        # A kernel that lists the register although its own field is zero (before 6.13) switches nothing off.
        return bool(_nibble(self.host.registers, id_register, shift)) and not _nibble(self.values, id_register, shift)

    def _accepts(self, register: int, value: int, own: int) -> bool:
        if register in _FIRMWARE_LEVELS:
            return value <= own
        if register in _FIRMWARE_BITMAPS:
            return not value & ~own
        mask = self.host.writable_masks.get(register)
        if mask is not None and (value ^ own) & ~mask:
            return False
        if register not in _FEATURE_ID_REGISTERS:
            return True
        signed = _SIGNED_SHIFTS.get(register, ())
        return all(
            _field(value, shift, shift in signed) <= _field(own, shift, shift in signed) for shift in range(0, 64, 4)
        )


def _nibble(registers: Mapping[int, int], register: int, shift: int) -> int:
    return registers.get(register, 0) >> shift & 0xF


def _field(value: int, shift: int, signed: bool) -> int:
    bits = value >> shift & 0xF
    return bits - 16 if signed and bits > 7 else bits
