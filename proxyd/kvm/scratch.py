"""A scratch VM and its vCPUs, made as QEMU makes them. They never run; closing them leaves nothing behind.

target/arm/kvm.c: kvm_arm_create_scratch_host_vcpu makes the VM, kvm_arch_init_vcpu gives the vCPU its features,
kvm_arm_init_cpreg_list reads the list. There is no interrupt controller, as in QEMU's own scratch VM, unless it is
asked for (hw/intc/arm_gicv3_kvm.c: kvm_arm_gicv3_realize), and every SVE vector length is left on.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from formats.arm64.register_id import describe, size_of
from proxyd.kvm import abi
from proxyd.kvm.abi import Capability, InterruptController
from proxyd.kvm.features import REQUIREMENTS, Feature, in_order, init_bits
from proxyd.kvm.system import CallRefused, KvmUnavailable, System, open_kvm

_LONGEST: Final = 256  # bytes of the longest register, an SVE vector
_WIDTH: Final = 8  # bytes up to which a register is a number

# As -M virt has them (hw/arm/virt.c: NUM_IRQS; include/hw/arm/virt.h: VIRTUAL_PMU_IRQ, a private interrupt).
_INTERRUPTS: Final = 288
_PMU_INTERRUPT: Final = 23


class ScratchVm:
    """A VM without memory. Use it as a context manager: leaving it closes everything.

    ``mte``: the whole VM has memory tagging, which must be known before it has a vCPU.
    Raises :class:`~proxyd.kvm.system.KvmUnavailable` where there is no KVM, and :class:`CallRefused`.
    """

    def __init__(self, system: System, *, mte: bool = False) -> None:
        self._system = system
        self.ioctl = system.ioctl
        self._fds: list[int] = []
        try:
            self._open(mte=mte)
        except BaseException:
            self.close()
            raise

    def _open(self, *, mte: bool) -> None:
        kvm = self._keep(open_kvm(self._system))
        if (version := self.call(kvm, abi.KVM_GET_API_VERSION, 0)) != abi.API_VERSION:
            raise KvmUnavailable(f"version {abi.API_VERSION} of KVM's interface expected, found {version}")
        # The type of a VM is the width of its physical addresses; 0 stands for 40 bits, which a host may not have.
        width = self.call(kvm, abi.KVM_CHECK_EXTENSION, Capability.ARM_VM_IPA_SIZE)
        self.fd = self._keep(self.call(kvm, abi.KVM_CREATE_VM, width))
        if mte:
            enable = bytearray(abi.ENABLE_CAP.pack(Capability.ARM_MTE, 0, 0, 0, 0, 0))
            self.call(self.fd, abi.KVM_ENABLE_CAP, enable, "ARM_MTE")

    def __enter__(self) -> Self:
        """The VM."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the vCPUs, the VM and /dev/kvm. Calling it again does no harm."""
        while self._fds:
            self._system.close(self._fds.pop())

    def extension(self, capability: Capability) -> int:
        """KVM_CHECK_EXTENSION: 0 where the capability is not there, else 1 or what it counts."""
        return self.call(self.fd, abi.KVM_CHECK_EXTENSION, capability)

    def lacks(self, feature: Feature) -> tuple[Capability, ...]:
        """The capabilities that the feature needs and this host does not have."""
        return tuple(c for c in REQUIREMENTS[feature].capabilities if self.extension(c) <= 0)

    def can_have(self, controller: InterruptController) -> bool:
        """Whether a VM could have this interrupt controller (hw/intc/arm_gic_common.c: kvm_create_device, test)."""
        request = bytearray(abi.CREATE_DEVICE.pack(controller, 0, abi.CREATE_DEVICE_TEST))
        try:
            self.call(self.fd, abi.KVM_CREATE_DEVICE, request, controller.name)
        except CallRefused as refusal:
            if refusal.errno == errno.ENODEV:
                return False
            raise
        return True

    def add_controller(self) -> InterruptController | None:
        """Give the VM the interrupt controller that a QEMU guest has here: GICv3 where it can be, else GICv2.

        After the last vCPU, as QEMU does: the number of vCPUs is then fixed. None where KVM has neither.
        """
        for kind in (InterruptController.V3, InterruptController.V2):
            if self.can_have(kind):
                break
        else:
            return None
        request = bytearray(abi.CREATE_DEVICE.pack(kind, 0, 0))
        self.call(self.fd, abi.KVM_CREATE_DEVICE, request, kind.name)
        gic = self._keep(abi.CREATE_DEVICE.unpack(request)[1])
        interrupts = array("I", [_INTERRUPTS])
        self.set_attribute(gic, abi.VGIC_GRP_NR_IRQS, 0, interrupts.buffer_info()[0])
        self.set_attribute(gic, abi.VGIC_GRP_CTRL, abi.VGIC_CTRL_INIT, 0)
        return kind

    def set_attribute(self, fd: int, group: int, attribute: int, address: int) -> None:
        """KVM_SET_DEVICE_ATTR of a device or a vCPU."""
        request = bytearray(abi.DEVICE_ATTR.pack(0, group, attribute, address))
        self.call(fd, abi.KVM_SET_DEVICE_ATTR, request, f"group {group} attribute {attribute}")

    def writable_masks(self) -> dict[int, int] | None:
        """Which bits of which ID registers may be written: id to mask, without the empty ones, ascending.

        None where the kernel cannot say (before Linux 6.7): then it takes no ID register but with its own value.
        """
        if not self.extension(Capability.ARM_SUPPORTED_REG_MASK_RANGES) & 1 << abi.MASK_RANGE:
            return None
        masks = array("Q", bytes(8 * abi.MASKS))
        request = bytearray(abi.REG_MASK_RANGE.pack(masks.buffer_info()[0], abi.MASK_RANGE))
        self.call(self.fd, abi.KVM_ARM_GET_REG_WRITABLE_MASKS, request)
        return dict(sorted((abi.masked_register(index), mask) for index, mask in enumerate(masks) if mask))

    def vcpu(self, features: Iterable[Feature], number: int = 0) -> ScratchVcpu:
        """Make a vCPU with these features, ready for its registers to be read. Each number once."""
        chosen = in_order(features)
        named = f"a vCPU with {', '.join(chosen)}"
        fd = self._keep(self.call(self.fd, abi.KVM_CREATE_VCPU, number))
        preferred = bytearray(abi.VCPU_INIT.size)
        self.call(self.fd, abi.KVM_ARM_PREFERRED_TARGET, preferred)
        # Of the preferred target only the number counts, as in QEMU; its features are what the vCPU is asked to have.
        target: int = abi.VCPU_INIT.unpack(preferred)[0]
        init = bytearray(abi.VCPU_INIT.pack(target, init_bits(chosen), 0, 0, 0, 0, 0, 0))
        self.call(fd, abi.KVM_ARM_VCPU_INIT, init, named)
        for feature in chosen:
            if (what := REQUIREMENTS[feature].finalize) is not None:
                self.call(fd, abi.KVM_ARM_VCPU_FINALIZE, bytearray(abi.FINALIZE.pack(what)), named)
        return ScratchVcpu(self, fd)

    def call(self, fd: int, request: int, argument: int | bytearray, subject: str = "") -> int:
        """One ioctl. Raises :class:`CallRefused`, which says what it was about."""
        try:
            return self._system.ioctl(fd, request, argument)
        except OSError as error:
            raise CallRefused(request, subject, error.errno or 0) from error

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd


def can_have_mte(system: System, features: Iterable[Feature]) -> bool:
    """Whether it is asked for and there: it must be enabled before the VM has a vCPU, and only where it is there."""
    if Feature.MTE not in features:
        return False
    with ScratchVm(system) as vm:
        return not vm.lacks(Feature.MTE)


class ScratchVcpu:
    """A vCPU that never runs. It lives as long as its VM."""

    def __init__(self, vm: ScratchVm, fd: int) -> None:
        self._vm = vm
        self._fd = fd
        # The kernel reads and writes registers through a pointer, so their memory must stay where it is.
        self._memory = array("B", bytes(_LONGEST))
        self._address = self._memory.buffer_info()[0]

    def start_pmu(self) -> None:
        """Make its PMU ready, as QEMU does once there is a GIC (target/arm/kvm.c: kvm_arm_pmu_set_irq, _init)."""
        interrupt = array("i", [_PMU_INTERRUPT])
        address = interrupt.buffer_info()[0]
        self._vm.set_attribute(self._fd, abi.PMU_V3_CTRL, abi.PMU_V3_IRQ, address)
        self._vm.set_attribute(self._fd, abi.PMU_V3_CTRL, abi.PMU_V3_INIT, 0)

    def register_ids(self) -> tuple[int, ...]:
        """KVM_GET_REG_LIST, ascending."""
        count = 0
        while True:
            request = bytearray(abi.REG_LIST.pack(count)) + bytes(8 * count)
            try:
                self._vm.call(self._fd, abi.KVM_GET_REG_LIST, request)
            except CallRefused as refusal:
                # Too short: the kernel has written how many there are.
                (needed,) = abi.REG_LIST.unpack_from(request)
                if refusal.errno != errno.E2BIG or needed <= count:
                    raise
                count = needed
            else:
                (count,) = abi.REG_LIST.unpack_from(request)
                return tuple(sorted(memoryview(request)[8 : 8 + 8 * count].cast("Q")))

    def read(self, register: int) -> bytes:
        """KVM_GET_ONE_REG: the register's bytes, in the host's order. Raises :class:`CallRefused`."""
        self._one(abi.KVM_GET_ONE_REG, register)
        return self._memory[: size_of(register)].tobytes()

    def get(self, register: int) -> int:
        """The value of a register of at most 64 bits."""
        return int.from_bytes(self.read(register), "little")

    def set(self, register: int, value: int) -> None:
        """KVM_SET_ONE_REG of a register of at most 64 bits. Raises :class:`CallRefused` when KVM does not take it."""
        size = size_of(register)
        # A stream carries 64 bits of every register; QEMU writes the low half of a narrow one.
        self._memory[:size] = array("B", (value & (1 << 8 * size) - 1).to_bytes(size, "little"))
        self._one(abi.KVM_SET_ONE_REG, register)

    def values(self, registers: Iterable[int]) -> dict[int, int]:
        """The values of those registers that are numbers: wider ones, SVE's, are left out."""
        return {register: self.get(register) for register in registers if size_of(register) <= _WIDTH}

    def values_that_are_there(self, registers: Iterable[int]) -> dict[int, int]:
        """As :meth:`values`, without those that KVM does not show any more: an ID register may hide another one."""
        found = {}
        for register in registers:
            try:
                found[register] = self.get(register)
            except CallRefused as refusal:
                if refusal.errno != errno.ENOENT:
                    raise
        return found

    def _one(self, request: int, register: int) -> None:
        # A rehearsal comes here some hundred times a vCPU while a guest stands still: the name is for failures only.
        try:
            self._vm.ioctl(self._fd, request, bytearray(abi.ONE_REG.pack(register, self._address)))
        except OSError as error:
            raise CallRefused(request, describe(register), error.errno or 0) from error
