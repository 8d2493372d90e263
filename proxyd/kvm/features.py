"""Which features a vCPU may have: they decide which registers KVM lists.

QEMU's ``-cpu host`` takes PMU, SVE and pointer authentication where the host has them, and PSCI always
(target/arm/kvm.c: kvm_arm_get_host_cpu_features, kvm_arch_init_vcpu). EL2 comes with ``-M virt,virtualization=on``, MTE
with ``-M virt,mte=on``; QEMU migrates no guest that has MTE under KVM.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from proxyd.kvm.abi import Capability, VcpuBit


class Feature(StrEnum):
    """Features by the names that ``--features`` and host descriptions use, in the order in which they are shown."""

    PSCI = "psci"
    PMU = "pmu"
    SVE = "sve"
    PAUTH = "pauth"
    EL2 = "el2"
    MTE = "mte"


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a feature needs: capabilities, each of which must be there; bits for KVM_ARM_VCPU_INIT.

    ``finalize`` is what KVM_ARM_VCPU_FINALIZE must be called with before registers can be read. ``of_the_vm``: it is a
    capability that is enabled for the whole VM before it has a vCPU.
    """

    capabilities: tuple[Capability, ...]
    bits: tuple[VcpuBit, ...]
    finalize: VcpuBit | None = None
    of_the_vm: Capability | None = None


REQUIREMENTS: Final = {
    Feature.PSCI: Requirement((Capability.ARM_PSCI_0_2,), (VcpuBit.PSCI_0_2,)),
    Feature.PMU: Requirement((Capability.ARM_PMU_V3,), (VcpuBit.PMU_V3,)),
    Feature.SVE: Requirement((Capability.ARM_SVE,), (VcpuBit.SVE,), finalize=VcpuBit.SVE),
    Feature.PAUTH: Requirement(
        (Capability.ARM_PTRAUTH_ADDRESS, Capability.ARM_PTRAUTH_GENERIC),
        (VcpuBit.PTRAUTH_ADDRESS, VcpuBit.PTRAUTH_GENERIC),  # KVM takes both or none
    ),
    Feature.EL2: Requirement((Capability.ARM_EL2,), (VcpuBit.HAS_EL2,)),
    Feature.MTE: Requirement((Capability.ARM_MTE,), (), of_the_vm=Capability.ARM_MTE),
}

OF_CPU_HOST: Final = frozenset({Feature.PSCI, Feature.PMU, Feature.SVE, Feature.PAUTH})
"""What QEMU's ``-cpu host`` asks for."""


def parse_features(text: str) -> frozenset[Feature]:
    """``pmu,sve`` as features. PSCI is always one, as in QEMU; an empty text asks for no other.

    Raises :class:`ValueError`.
    """
    wanted = {Feature.PSCI}
    for name in filter(None, (part.strip() for part in text.split(","))):
        try:
            wanted.add(Feature(name))
        except ValueError:
            known = ", ".join(Feature)
            raise ValueError(f"features of {known} expected, separated by commas, found {name!r}") from None
    return frozenset(wanted)


def in_order(features: Iterable[Feature]) -> tuple[Feature, ...]:
    """The features as they are shown: PSCI first."""
    wanted = frozenset(features)
    return tuple(feature for feature in Feature if feature in wanted)


def init_bits(features: Iterable[Feature]) -> int:
    """The first word of ``kvm_vcpu_init.features``."""
    return sum({1 << bit for feature in features for bit in REQUIREMENTS[feature].bits})
