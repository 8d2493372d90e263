"""Numbers and layouts of KVM's interface on arm64: constants and bit arithmetic, no calls.

include/uapi/linux/kvm.h, arch/arm64/include/uapi/asm/kvm.h, include/uapi/asm-generic/ioctl.h. An ioctl number is

    31  30 29            16 15       8 7        0
    +-----+----------------+----------+----------+
    | dir | size of struct | 0xae     | number   |        dir: 1 = the kernel reads the struct, 2 = it writes it
    +-----+----------------+----------+----------+

Every struct is in the byte order of the host, with the pointers in it as 64-bit numbers.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

KVMIO: Final = 0xAE
_KERNEL_READS: Final = 1
_KERNEL_WRITES: Final = 2

# struct kvm_vcpu_init: u32 target, u32 features[7]
VCPU_INIT: Final = struct.Struct("=I7I")
# struct kvm_one_reg: u64 id, u64 addr
ONE_REG: Final = struct.Struct("=QQ")
# struct kvm_reg_list: u64 n, then n times u64 id. The ioctl's number has the size of the part before the ids.
REG_LIST: Final = struct.Struct("=Q")
# struct kvm_create_device: u32 type, u32 fd, u32 flags
CREATE_DEVICE: Final = struct.Struct("=III")
# struct kvm_device_attr: u32 flags, u32 group, u64 attr, u64 addr
DEVICE_ATTR: Final = struct.Struct("=IIQQ")
# struct kvm_enable_cap: u32 cap, u32 flags, u64 args[4], u8 pad[64]
ENABLE_CAP: Final = struct.Struct("=II4Q64x")
# struct reg_mask_range: u64 addr, u32 range, u32 reserved[13]
REG_MASK_RANGE: Final = struct.Struct("=QI52x")
# int, the argument of KVM_ARM_VCPU_FINALIZE
FINALIZE: Final = struct.Struct("=i")


def ioctl_number(direction: int, number: int, size: int) -> int:
    """_IOC(direction, KVMIO, number, size)."""
    return direction << 30 | size << 16 | KVMIO << 8 | number


KVM_GET_API_VERSION: Final = ioctl_number(0, 0x00, 0)
KVM_CREATE_VM: Final = ioctl_number(0, 0x01, 0)
KVM_CHECK_EXTENSION: Final = ioctl_number(0, 0x03, 0)
KVM_CREATE_VCPU: Final = ioctl_number(0, 0x41, 0)
KVM_ENABLE_CAP: Final = ioctl_number(_KERNEL_READS, 0xA3, ENABLE_CAP.size)
KVM_GET_ONE_REG: Final = ioctl_number(_KERNEL_READS, 0xAB, ONE_REG.size)
KVM_SET_ONE_REG: Final = ioctl_number(_KERNEL_READS, 0xAC, ONE_REG.size)
KVM_ARM_VCPU_INIT: Final = ioctl_number(_KERNEL_READS, 0xAE, VCPU_INIT.size)
KVM_ARM_PREFERRED_TARGET: Final = ioctl_number(_KERNEL_WRITES, 0xAF, VCPU_INIT.size)
KVM_GET_REG_LIST: Final = ioctl_number(_KERNEL_READS | _KERNEL_WRITES, 0xB0, REG_LIST.size)
# The kernel's header says "writes", though it reads the struct and writes through the pointer in it.
KVM_ARM_GET_REG_WRITABLE_MASKS: Final = ioctl_number(_KERNEL_WRITES, 0xB6, REG_MASK_RANGE.size)
KVM_ARM_VCPU_FINALIZE: Final = ioctl_number(_KERNEL_READS, 0xC2, FINALIZE.size)
KVM_CREATE_DEVICE: Final = ioctl_number(_KERNEL_READS | _KERNEL_WRITES, 0xE0, CREATE_DEVICE.size)
KVM_SET_DEVICE_ATTR: Final = ioctl_number(_KERNEL_READS, 0xE1, DEVICE_ATTR.size)

# What an error message calls a request.
NAMES: Final = {
    number: name for name, number in list(globals().items()) if name.startswith("KVM_") and isinstance(number, int)
}

API_VERSION: Final = 12


class Capability(IntEnum):
    """KVM_CAP_*: what KVM_CHECK_EXTENSION is asked for. The names are those of a description's ``capabilities``."""

    MAX_VCPUS = 66
    GUEST_DEBUG_HW_BPS = 119
    GUEST_DEBUG_HW_WPS = 120
    ARM_PSCI_0_2 = 102
    ARM_PMU_V3 = 126
    ARM_INJECT_SERROR_ESR = 158
    ARM_VM_IPA_SIZE = 165
    ARM_SVE = 170
    ARM_PTRAUTH_ADDRESS = 171
    ARM_PTRAUTH_GENERIC = 172
    ARM_NISV_TO_USER = 177
    STEAL_TIME = 187
    PTP_KVM = 198
    ARM_MTE = 205
    ARM_SYSTEM_SUSPEND = 216
    COUNTER_OFFSET = 227
    ARM_SUPPORTED_REG_MASK_RANGES = 230
    ARM_WRITABLE_IMP_ID_REGS = 239
    ARM_EL2 = 240
    ARM_EL2_E2H0 = 241


class VcpuBit(IntEnum):
    """KVM_ARM_VCPU_*: numbers of bits in ``kvm_vcpu_init.features``, and of what KVM_ARM_VCPU_FINALIZE finalizes."""

    PSCI_0_2 = 2
    PMU_V3 = 3
    SVE = 4
    PTRAUTH_ADDRESS = 5
    PTRAUTH_GENERIC = 6
    HAS_EL2 = 7


class InterruptController(IntEnum):
    """KVM_DEV_TYPE_ARM_VGIC_*."""

    V2 = 5
    V3 = 7
    ITS = 8
    V5 = 16


# Groups and attributes of KVM_SET_DEVICE_ATTR: KVM_DEV_ARM_VGIC_* of a GIC, KVM_ARM_VCPU_PMU_V3_* of a vCPU.
VGIC_GRP_NR_IRQS: Final = 3
VGIC_GRP_CTRL: Final = 4
VGIC_CTRL_INIT: Final = 0
PMU_V3_CTRL: Final = 0
PMU_V3_IRQ: Final = 0
PMU_V3_INIT: Final = 1

CREATE_DEVICE_TEST: Final = 1  # flag of KVM_CREATE_DEVICE: say whether it could be made, make nothing

SVE_VLS: Final = 0x6060_0000_0015_FFFF  # KVM_REG_ARM64_SVE_VLS: bit n set = vectors of (n + 1) times 128 bits
SVE_QUADWORD_BITS: Final = 128

MASK_RANGE: Final = 0  # KVM_ARM_FEATURE_ID_RANGE
MASKS: Final = 3 * 8 * 8  # KVM_ARM_FEATURE_ID_RANGE_SIZE
_SYSREG: Final = 0x6030_0000_0013_0000


def masked_register(index: int) -> int:
    """The id of the register that a mask stands for.

    The inverse of KVM_ARM_FEATURE_ID_RANGE_IDX: op0 is 3, crn 0; op1 is 0, 1 or 3; then crm, then op2, up to 7 each.
    """
    op1 = (0, 1, 3)[index >> 6]
    return _SYSREG | 3 << 14 | op1 << 11 | (index >> 3 & 7) << 3 | index & 7
