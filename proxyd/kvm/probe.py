"""A host description asked of KVM itself: what ``proxyd probe`` prints.

The list is that of a vCPU as QEMU's ``-cpu host`` has it, without the registers that QEMU keeps elsewhere. For each
smaller set of features another vCPU is asked, and what differs is kept: a guest without a PMU has a shorter list.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations
from typing import Final

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of, kind_of
from proxyd.kvm.abi import SVE_QUADWORD_BITS, SVE_VLS, Capability, InterruptController
from proxyd.kvm.counter import TIMER_CNT, Clock, counter_hz
from proxyd.kvm.features import Feature, in_order
from proxyd.kvm.host_facts import cpu_name
from proxyd.kvm.pmu_writes import pmu_writes
from proxyd.kvm.scratch import ScratchVcpu, ScratchVm, can_have_mte
from proxyd.kvm.system import System
from proxyd.rewrite.host import NOT_IN_LIST, HostDescription, Variant

_MIDR: Final = id_of("MIDR_EL1")

# Values that tell the time at which they were read: no difference between two lists.
_RUNNING: Final = frozenset({TIMER_CNT, id_of("PTIMER_CNT")})


def probe(
    system: System,
    clock: Clock,
    *,
    features: Collection[Feature],
    name: str,
    kernel: str,
    qemu: str | None,
    midrs: tuple[int, ...] = (),
    variants: bool = True,
) -> HostDescription:
    """Ask KVM. A feature that the host does not have is left out, and the description says why.

    ``midrs``: what the host's CPUs say they are; the name of the first kind is the description's ``cpu``.
    ``variants``: whether to read the lists of smaller sets of features, too.
    Raises :class:`~proxyd.kvm.system.KvmError`.
    """
    with ScratchVm(system, mte=can_have_mte(system, features)) as vm:
        missing = {feature: lacking for feature in in_order(features) if (lacking := vm.lacks(feature))}
        chosen = [feature for feature in in_order(features) if feature not in missing]
        vcpu = vm.vcpu(chosen)
        registers = _cpregs(vcpu)
        vector_bits = _sve_vector_bits(vcpu) if Feature.SVE in chosen else None
        writes = pmu_writes(vcpu) if Feature.PMU in chosen else None
        frequency = counter_hz(lambda: vcpu.get(TIMER_CNT), clock)
        masks = vm.writable_masks()
        controllers = tuple(kind.name.lower() for kind in InterruptController if vm.can_have(kind))
        capabilities = {capability.name: vm.extension(capability) for capability in Capability}
    return HostDescription(
        name=name,
        registers=registers,
        accelerator="kvm",
        origin="probe",
        kernel=kernel,
        qemu=qemu,
        cpu=cpu_name(registers[_MIDR]),
        writable_masks=masks,
        capabilities=capabilities,
        features=tuple(map(str, chosen)),
        missing_features={
            str(feature): f"KVM has no {' and no '.join(capability.name for capability in lacking)}"
            for feature, lacking in missing.items()
        },
        gic=controllers,
        counter_hz=frequency,
        midrs=midrs or None,
        sve_vector_bits=vector_bits,
        pmu_writes=writes,
        variants=tuple(_variants(system, chosen, registers)) if variants else None,
    )


def _cpregs(vcpu: ScratchVcpu) -> CpregList:
    """target/arm/kvm.c: kvm_arm_init_cpreg_list."""
    return CpregList(vcpu.values(register for register in vcpu.register_ids() if kind_of(register) not in NOT_IN_LIST))


def _sve_vector_bits(vcpu: ScratchVcpu) -> tuple[int, ...]:
    lengths = int.from_bytes(vcpu.read(SVE_VLS), "little")
    return tuple((n + 1) * SVE_QUADWORD_BITS for n in range(lengths.bit_length()) if lengths >> n & 1)


def _variants(system: System, features: Collection[Feature], described: CpregList) -> Iterator[Variant]:
    """The lists of all smaller sets of features, each from a VM of its own: KVM wants a VM's vCPUs to be alike."""
    removable = [feature for feature in features if feature is not Feature.PSCI]
    for count in range(1, len(removable) + 1):
        for without in combinations(removable, count):
            chosen = [feature for feature in features if feature not in without]
            with ScratchVm(system, mte=Feature.MTE in chosen) as vm:
                other = _cpregs(vm.vcpu(chosen))
            same_time = {register: described[register] for register in _RUNNING & set(other) & set(described)}
            yield Variant.between(tuple(map(str, chosen)), described, other.edited(put=same_time))
