"""Whether KVM stores what userspace writes to the PMU's SET and CLR registers, or does what the guest's write would do.

Linux 6.7 to 6.14 did the latter (a45f41d754e0, undone by f2aeb7bbd574): a CLR register, written after its SET register
with the same value, takes away what was just restored, and nobody is told. A release number does not say which of the
two a vendor's kernel does. Trying it does.
"""

from __future__ import annotations

from typing import Final, Literal

from formats.arm64.register_id import id_of
from proxyd.kvm.scratch import ScratchVcpu

_SET: Final = id_of("PMCNTENSET_EL0")
_CLEAR: Final = id_of("PMCNTENCLR_EL0")
_CYCLE_COUNTER: Final = 1 << 31  # every PMU has it


def pmu_writes(vcpu: ScratchVcpu) -> Literal["stored", "as-guest"]:
    """Try it on a vCPU with a PMU, which has another value in these registers afterwards.

    Raises :class:`~proxyd.kvm.system.CallRefused`.
    """
    vcpu.set(_SET, _CYCLE_COUNTER)
    vcpu.set(_CLEAR, _CYCLE_COUNTER)
    return "stored" if vcpu.get(_SET) & _CYCLE_COUNTER else "as-guest"
