"""Write a guest's registers to scratch vCPUs as the destination's QEMU will, and see what KVM makes of them.

In QEMU's order (10.0): vCPUs with the features that the registers show, a GIC, the PMU; the reset, which writes every
vCPU's own values back (accel/kvm/kvm-all.c: kvm_cpu_synchronize_post_reset; here only where that changes anything, in
the PMU, where some kernels obey the CLR registers), so that what a fresh vCPU holds at random is as it will be there;
then for each vCPU, in the order of the stream, the merge and the write of cpu_post_load
(target/arm/machine.c; target/arm/kvm.c: write_list_to_kvmstate): the destination's own list with the stream's values
where it has them, ascending, on after an error. Read back is when all vCPUs are written, because ID registers and
counter offsets are the VM's: a vCPU may change what another has got.

Not rehearsed: QEMU's second write of the same list when the guest starts, after a round trip through its own CPU state
(kvm_arch_put_registers); the core, FP and SVE registers, GIC and devices, which travel elsewhere. The features are
deduced: whether the destination's QEMU was started with the same, only its command line says.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Self

from formats.arm64.register_id import id_of, kind_of, size_of
from proxyd.kvm.counter import NS, Clock
from proxyd.kvm.features import Feature, in_order
from proxyd.kvm.scratch import ScratchVcpu, ScratchVm, can_have_mte
from proxyd.kvm.system import CallRefused, System
from proxyd.rewrite.host import NOT_IN_LIST
from proxyd.rewrite.plan import VcpuRegisters
from proxyd.rewrite.rehearsal import Finding, FindingKind, Rehearsal
from proxyd.rewrite.vcpu_features import features_shown

# Registers that count on by themselves: what is read back is later than what was written, by less than this. All vCPUs
# share one counter (from 6.4 on), so that the last vCPU's reading is what the first has, too, and may be earlier.
RUNNING: Final = frozenset({id_of("TIMER_CNT"), id_of("PTIMER_CNT")})
DRIFT: Final = 1 << 36  # a minute at 1 GHz, the fastest there is; a lost offset is off by the host's uptime

# What a kernel may obey instead of storing it, so that writing a vCPU's own values back changes them.
OBEYED: Final = tuple(
    id_of(name)
    for name in (
        "PMINTENSET_EL1", "PMINTENCLR_EL1", "PMCNTENSET_EL0", "PMCNTENCLR_EL0", "PMOVSCLR_EL0", "PMOVSSET_EL0",
    )
)  # fmt: skip

# Bits that say what the hardware finds at the moment: a timer's ISTATUS follows from the counter and CVAL.
STATUS_BITS: Final = {id_of("TIMER_CTL"): 1 << 2, id_of("PTIMER_CTL"): 1 << 2}


def deduce_features(vcpus: Sequence[VcpuRegisters]) -> tuple[Feature, ...]:
    """The features of a guest's vCPUs, by the registers that the first one has."""
    return in_order(Feature(name) for name in features_shown(vcpus[0].registers if vcpus else ()))


class Stage:
    """A VM with vCPUs, ready to be written to. Use it as a context manager.

    It can be set up before the registers are known, as far as their number and features are.
    Raises :class:`~proxyd.kvm.system.KvmError`.
    """

    def __init__(self, system: System, features: Sequence[Feature], vcpus: int) -> None:
        self._vm = ScratchVm(system, mte=can_have_mte(system, features))
        try:
            self.features = tuple(feature for feature in in_order(features) if not self._vm.lacks(feature))
            self.vcpus = [self._vm.vcpu(self.features, number) for number in range(vcpus)]
            self.controller = self._vm.add_controller()
            if self.controller is not None and Feature.PMU in self.features:
                for vcpu in self.vcpus:
                    vcpu.start_pmu()
            self.listed = [listed_by(vcpu) for vcpu in self.vcpus]
            for vcpu, listed in zip(self.vcpus, self.listed, strict=True):
                _write(vcpu, vcpu.values(register for register in OBEYED if register in listed))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the VM."""
        self._vm.close()

    def perform(self, vcpus: Sequence[VcpuRegisters], guests: Sequence[VcpuRegisters]) -> Iterator[Finding]:
        """Write, then read back. See :func:`rehearse`."""
        written: list[dict[int, int]] = []
        errors: list[dict[int, str]] = []
        for vcpu, listed, sent in zip(self.vcpus, self.listed, vcpus, strict=True):
            own = vcpu.values(register for register in listed if register not in sent.registers)
            own |= {register: value for register, value in sent.registers.items() if register in listed}
            written.append(own)
            errors.append(_write(vcpu, own))
        for place, vcpu in enumerate(self.vcpus):
            found = vcpu.values_that_are_there(written[place])
            yield from _compare(vcpus[place], written[place], errors[place], found, guests[place].registers)


def rehearse(
    system: System,
    clock: Clock,
    vcpus: Sequence[VcpuRegisters],
    *,
    kernel: str,
    guests: Sequence[VcpuRegisters] | None = None,
) -> Rehearsal:
    """Write the registers of all vCPUs of one guest to a scratch VM. Nothing of it remains.

    ``guests``: the registers as the guest had them, where ``vcpus`` is what a plan made of them. A kernel that has to
    be told something else than a value in order to keep that value (see the knowledge base's repairs) has then kept
    it: a register that comes back as the guest had it is not changed.
    ``kernel``: as ``uname -r`` says. Raises :class:`~proxyd.kvm.system.KvmError` where KVM cannot be asked.
    """
    began = clock.now()
    with Stage(system, deduce_features(vcpus), len(vcpus)) as stage:
        findings = tuple(stage.perform(vcpus, vcpus if guests is None else guests))
        features = tuple(map(str, stage.features))
    return Rehearsal(findings, features, kernel, len(vcpus), (clock.now() - began) / NS)


def listed_by(vcpu: ScratchVcpu) -> frozenset[int]:
    """What QEMU would list of a vCPU (target/arm/kvm.c: kvm_arm_init_cpreg_list)."""
    return frozenset(register for register in vcpu.register_ids() if kind_of(register) not in NOT_IN_LIST)


def _write(vcpu: ScratchVcpu, registers: Mapping[int, int]) -> dict[int, str]:
    """Write in ascending order; the errors by register."""
    errors = {}
    for register in sorted(registers):
        try:
            vcpu.set(register, registers[register])
        except CallRefused as refusal:
            errors[register] = errno.errorcode.get(refusal.errno, str(refusal.errno))
    return errors


def _compare(
    sent: VcpuRegisters,
    written: Mapping[int, int],
    errors: Mapping[int, str],
    found: Mapping[int, int],
    guest: Mapping[int, int],
) -> Iterator[Finding]:
    """The findings of one vCPU, ascending by register."""
    for register in sorted({*sent.registers, *written}):
        wanted, now = sent.registers.get(register), found.get(register)
        if register not in written:
            yield Finding(sent.vcpu, register, FindingKind.UNKNOWN, wanted)
        elif register in errors:
            # One that the stream lacks is written all the same, with the vCPU's own value.
            yield Finding(sent.vcpu, register, FindingKind.REFUSED, written[register], now, errors[register])
        elif wanted is None:
            yield Finding(sent.vcpu, register, FindingKind.MISSING, None, now)
        elif now is None or not (_same(register, wanted, now) or _same(register, guest.get(register, wanted), now)):
            yield Finding(sent.vcpu, register, FindingKind.CHANGED, wanted, now)


def _same(register: int, wanted: int, found: int) -> bool:
    """Whether nothing is lost. A stream's 64 bits of a 32-bit register are never more than 32: QEMU widens them."""
    if register in RUNNING:
        difference = (found - wanted) & (1 << 8 * size_of(register)) - 1
        return difference < DRIFT or difference > (1 << 64) - DRIFT
    status = STATUS_BITS.get(register, 0)
    return wanted & ~status == found & ~status
