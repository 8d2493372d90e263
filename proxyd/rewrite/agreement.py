"""What must hold between the vCPUs of one guest, and of every value, whatever the destination.

ID registers, CTR_EL0 and the firmware's registers are the VM's (arch/arm64/kvm: kvm->arch.id_regs, smccc_feat): KVM
keeps what was written last, so that vCPUs which disagree overwrite one another without an error. MPIDR_EL1 is what
tells vCPUs apart. A 32-bit register whose stream value is wider loses the rest in QEMU (target/arm/kvm.c:
write_list_to_kvmstate).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from formats.arm64.id_fields import is_id_register
from formats.arm64.register_id import RegisterKind, id_of, kind_of, size_of
from proxyd.rewrite.changes import Refusal, VcpuRegisters
from proxyd.rewrite.verdict import Verdict

_MPIDR: Final = id_of("MPIDR_EL1")
_CTR: Final = id_of("CTR_EL0")
_FIRMWARE: Final = frozenset({RegisterKind.FIRMWARE, RegisterKind.FIRMWARE_BITMAP})


def disagreements(vcpus: Sequence[VcpuRegisters]) -> Iterator[Refusal]:
    """Refusals for registers that cannot be as they are, each named with the vCPU that does not fit."""
    if not vcpus:
        return
    first, *others = vcpus
    numbers: dict[int, int] = {}
    for vcpu in vcpus:
        yield from _too_wide(vcpu)
        number = vcpu.registers.get(_MPIDR)
        if number is not None:
            same = numbers.setdefault(number, vcpu.vcpu)
            if same != vcpu.vcpu:
                yield _refusal(vcpu, _MPIDR, number, f"vcpu {same} has the same: the guest could not tell them apart")
    shared = [register for register in first.registers if _is_the_vms(register)]
    for vcpu in others:
        for register in shared:
            theirs, ours = vcpu.registers.get(register), first.registers[register]
            if theirs is not None and theirs != ours:
                yield _refusal(
                    vcpu, register, theirs, f"vcpu {first.vcpu} has {ours:#x}, and KVM keeps one value for the whole VM"
                )


def _is_the_vms(register: int) -> bool:
    return is_id_register(register) or register == _CTR or kind_of(register) in _FIRMWARE


def _too_wide(vcpu: VcpuRegisters) -> Iterator[Refusal]:
    for register, value in vcpu.registers.items():
        if value >> 32 and value >> 8 * size_of(register):
            yield _refusal(vcpu, register, value, f"a value of {8 * size_of(register)} bits expected")


def _refusal(vcpu: VcpuRegisters, register: int, value: int, reason: str) -> Refusal:
    return Refusal(vcpu.vcpu, register, value, None, Verdict.UNKNOWN, reason)
