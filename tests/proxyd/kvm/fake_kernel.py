"""A kernel at the ioctl seam that behaves as KVM does for probes and rehearsals; the registers are a real host's.

It reads and writes structs and the memory they point at with ``struct`` and ``ctypes``, so wrong layouts show. Errors
are those of arch/arm64/kvm: a vCPU is asked for nothing before KVM_ARM_VCPU_INIT, nor before SVE is finalized.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from formats.arm64.register_id import id_of, name_of
from proxyd.rewrite.host import HostDescription
from tests import recorded
from tests.proxyd.kvm.fake_values import FIRMWARE, PAIRS, hidden, judge, kept, obeys

TARGET = 5  # KVM_ARM_TARGET_GENERIC_V8

PSCI, PMU, SVE, PAUTH, EL2 = 1 << 2, 1 << 3, 1 << 4, 3 << 5, 1 << 7
ALL = {102: 1, 126: 1, 165: 48, 170: 1, 171: 1, 172: 1, 66: 512, 230: 1, 105: 1}
"""Capabilities of a host with PMU, SVE and pointer authentication, by number."""

PC = 0x6030000000100040
V0 = 0x6040000000100054
ZREG0 = 0x6080000000150000
SVE_VLS = 0x606000000015FFFF
TIMER_CNT = 0x603000000013DF1A


def real_host(kernel: str = "7.3", cpu: str = "max") -> HostDescription:
    """What was read on a real kernel."""
    return HostDescription.parse(recorded.host_json(kernel, cpu), "recorded")


@dataclass
class Vm:
    """What KVM keeps of a VM."""

    mte: bool = False
    init: int | None = None
    numbers: set[int] = field(default_factory=set)
    registers: dict[int, bytes] = field(default_factory=dict)
    """Those that all vCPUs have in common, once one was written."""
    gic: Gic | None = None


@dataclass
class Vcpu:
    """What KVM keeps of a vCPU."""

    vm: Vm
    init: int | None = None
    finalized: bool = False
    registers: dict[int, bytes] = field(default_factory=dict)
    fresh: dict[int, bytes] = field(default_factory=dict)
    pmu: list[str] = field(default_factory=list)


@dataclass
class Gic:
    """What KVM keeps of an interrupt controller."""

    vm: Vm
    interrupts: int = 0
    initialized: bool = False


class FakeKernel:
    """A :class:`proxyd.kvm.system.System`. ``now`` is the time in nanoseconds; the counter counts with it."""

    def __init__(
        self,
        host: HostDescription | None = None,
        *,
        capabilities: dict[int, int] | None = None,
        devices: Iterable[int] = (7, 8),
        vector_lengths: int = 0b11,
        hz: int = 62_500_000,
        call_ns: int = 500,
        obeys_pmu: bool = False,
    ) -> None:
        self.host = host or real_host()
        self.capabilities = ALL if capabilities is None else capabilities
        self.devices = set(devices)
        self.vector_lengths = vector_lengths
        self.hz = hz
        self.call_ns = call_ns
        self.obeys_pmu = obeys_pmu
        """As Linux 6.7 to 6.12: a SET register sets, a CLR register clears."""
        self.time = 10**12
        self.offset = 0
        self.files: dict[int, Any] = {}
        self.opened = 0
        self.calls: list[int] = []
        self.api_version = 12
        self.arch = "aarch64"
        self.refuse: dict[int, int] = {}
        """Request -> errno: refused whatever it is about."""

    # The seam.

    def machine(self) -> str:
        return self.arch

    def open_kvm(self) -> int:
        return self._file("kvm")

    def close(self, fd: int) -> None:
        del self.files[fd]

    def ioctl(self, fd: int, request: int, argument: int | bytearray) -> int:
        if fd not in self.files:
            raise os_error(errno.EBADF)
        self.calls.append(request)
        if request in self.refuse:
            raise os_error(self.refuse[request])
        file = self.files[fd]
        table: dict[int, Callable[[Any, Any], int]] = (
            {0xAE00: self._api_version, 0xAE01: self._create_vm, 0xAE03: self._check}
            if file == "kvm"
            else {
                0xAE03: self._check,
                0xAE41: self._create_vcpu,
                0x4068AEA3: self._enable,
                0x8020AEAF: self._preferred,
                0x8040AEB6: self._masks,
                0xC00CAEE0: self._device,
            }
            if isinstance(file, Vm)
            else {0x4018AEE1: self._gic_attribute}
            if isinstance(file, Gic)
            else {
                0x4018AEE1: self._pmu_attribute,
                0x4020AEAE: self._init,
                0x4004AEC2: self._finalize,
                0xC008AEB0: self._list,
                0x4010AEAB: self._get,
                0x4010AEAC: self._set,
            }
        )
        if request not in table:
            raise os_error(errno.ENOTTY)
        return table[request](file, argument)

    # The clock.

    def now(self) -> int:
        self.time += self.call_ns
        return self.time

    def wait(self, nanoseconds: int) -> None:
        self.time += nanoseconds

    # /dev/kvm

    def _api_version(self, _file: Any, argument: int) -> int:
        assert argument == 0
        return self.api_version

    def _create_vm(self, _file: Any, kind: int) -> int:
        if not 32 <= kind <= self.capabilities.get(165, 40):
            raise os_error(errno.EINVAL)
        return self._file(Vm())

    def _check(self, _file: Any, capability: int) -> int:
        return self.capabilities.get(capability, 0)

    # A VM

    def _create_vcpu(self, vm: Vm, number: int) -> int:
        if number in vm.numbers:
            raise os_error(errno.EEXIST)
        vm.numbers.add(number)
        return self._file(Vcpu(vm))

    def _enable(self, vm: Vm, argument: bytearray) -> int:
        capability, flags, *arguments = struct.unpack("=II4Q64x", argument)
        if capability != 205 or flags or any(arguments) or not self._check(vm, 205):
            raise os_error(errno.EINVAL)
        if vm.numbers:
            raise os_error(errno.EBUSY)
        vm.mte = True
        return 0

    def _preferred(self, _vm: Vm, argument: bytearray) -> int:
        argument[:] = struct.pack("=8I", TARGET, 0, 0, 0, 0, 0, 0, 0)
        return 0

    def _masks(self, _vm: Vm, argument: bytearray) -> int:
        address, kind, *reserved = struct.unpack("=QI13I", argument)
        if kind or any(reserved) or self.host.writable_masks is None:
            raise os_error(errno.EINVAL)
        masks = [0] * 192
        for register, mask in self.host.writable_masks.items():
            op1 = register >> 11 & 7
            masks[(2 if op1 == 3 else op1) * 64 + (register >> 3 & 7) * 8 + (register & 7)] = mask
        ctypes.memmove(address, struct.pack("=192Q", *masks), 192 * 8)
        return 0

    def _device(self, vm: Vm, argument: bytearray) -> int:
        kind, _, flags = struct.unpack("=III", argument)
        if kind not in self.devices:
            raise os_error(errno.ENODEV)
        if not flags & 1:
            if vm.gic is not None:
                raise os_error(errno.EEXIST)
            vm.gic = Gic(vm)
            struct.pack_into("=I", argument, 4, self._file(vm.gic))
        return 0

    def _gic_attribute(self, gic: Gic, argument: bytearray) -> int:
        flags, group, attribute, address = struct.unpack("=IIQQ", argument)
        if flags or (group, attribute) not in ((3, 0), (4, 0)):
            raise os_error(errno.ENXIO)
        if group == 3:
            (gic.interrupts,) = struct.unpack("=I", ctypes.string_at(address, 4))
            if gic.interrupts < 64 or gic.interrupts % 32:
                raise os_error(errno.EINVAL)
        else:
            gic.initialized = True
        return 0

    def _pmu_attribute(self, vcpu: Vcpu, argument: bytearray) -> int:
        flags, group, attribute, address = struct.unpack("=IIQQ", argument)
        if flags or group or attribute > 1 or vcpu.init is None or not vcpu.init & PMU:
            raise os_error(errno.ENXIO)
        if attribute == 0:
            (number,) = struct.unpack("=i", ctypes.string_at(address, 4))
            if not 16 <= number < 32:  # a private interrupt
                raise os_error(errno.EINVAL)
            vcpu.pmu.append("irq")
        elif vcpu.vm.gic is None or not vcpu.vm.gic.initialized:  # kvm_arm_pmu_v3_init
            raise os_error(errno.ENODEV)
        else:
            vcpu.pmu.append("init")
        return 0

    # A vCPU

    def _init(self, vcpu: Vcpu, argument: bytearray) -> int:
        target, first, *others = struct.unpack("=8I", argument)
        supported = PSCI
        for bits, numbers in ((PMU, [126]), (SVE, [170]), (PAUTH, [171, 172]), (EL2, [240])):
            if all(self.capabilities.get(number) for number in numbers):
                supported |= bits
        if target != TARGET or any(others) or first & ~supported:
            raise os_error(errno.EINVAL)
        if vcpu.vm.gic is not None:
            raise os_error(errno.EBUSY)
        if vcpu.vm.init not in (None, first):  # kvm_vcpu_init_check_features
            raise os_error(errno.EINVAL)
        vcpu.vm.init = vcpu.init = first
        vcpu.registers = dict(self._registers(first, mte=vcpu.vm.mte))
        vcpu.fresh = dict(vcpu.registers)
        return 0

    def _finalize(self, vcpu: Vcpu, argument: bytearray) -> int:
        (feature,) = struct.unpack("=i", argument)
        if feature != 4 or vcpu.init is None or not vcpu.init & SVE:
            raise os_error(errno.EINVAL)
        vcpu.finalized = True
        return 0

    def _registers(self, bits: int, *, mte: bool) -> Iterator[tuple[int, bytes]]:
        """The host's, less those of features that the vCPU has not, as arch/arm64/kvm/sys_regs.c hides them."""
        for register, value in self.host.registers.items():
            name = name_of(register)
            if name.startswith("PM") and not bits & PMU:
                continue
            if name.startswith("AP") and not bits & PAUTH:
                continue
            if name == "ZCR_EL1" and not bits & SVE:
                continue
            shown = value
            if name == "ID_AA64DFR0_EL1" and not bits & PMU:
                shown &= ~0xF00
            if name == "ID_AA64PFR0_EL1" and not bits & SVE:
                shown &= ~(0xF << 32)
            yield register, shown.to_bytes(1 << (register >> 52 & 15), "little")
        if mte:
            yield id_of("RGSR_EL1"), bytes(8)
        yield PC, bytes(8)
        yield V0, bytes(16)
        if bits & SVE:
            yield ZREG0, bytes(256)
            yield SVE_VLS, struct.pack("=8Q", self.vector_lengths, *[0] * 7)

    def _ready(self, vcpu: Vcpu) -> None:
        if vcpu.init is None:
            raise os_error(errno.ENOEXEC)
        if vcpu.init & SVE and not vcpu.finalized:
            raise os_error(errno.EPERM)

    def _list(self, vcpu: Vcpu, argument: bytearray) -> int:
        self._ready(vcpu)
        (room,) = struct.unpack_from("=Q", argument)
        ids = list(vcpu.registers)[::-1]  # the kernel promises no order
        struct.pack_into("=Q", argument, 0, len(ids))
        if room < len(ids):
            raise os_error(errno.E2BIG)
        struct.pack_into(f"={len(ids)}Q", argument, 8, *ids)
        return 0

    def _get(self, vcpu: Vcpu, argument: bytearray) -> int:
        self._ready(vcpu)
        register, address = struct.unpack("=QQ", argument)
        if register not in vcpu.registers:
            raise os_error(errno.ENOENT)
        if self._hides(vcpu, register):
            raise os_error(errno.ENOENT)
        value = vcpu.vm.registers.get(register, vcpu.registers[register])
        if register == TIMER_CNT:
            self.time += self.call_ns
            value = (self.time * self.hz // 10**9 + self.offset & (1 << 64) - 1).to_bytes(8, "little")
            self.time += self.call_ns
        elif self.obeys_pmu and name_of(register) in PAIRS:
            value = vcpu.registers[id_of(PAIRS[name_of(register)])]
        ctypes.memmove(address, value, len(value))
        return 0

    def _hides(self, vcpu: Vcpu, register: int) -> bool:
        def value(name: str) -> int | None:
            found = vcpu.vm.registers.get(id_of(name), vcpu.registers.get(id_of(name)))
            return None if found is None else int.from_bytes(found, "little")

        return hidden(name_of(register), lambda name: self.host.registers.get(id_of(name)), value)

    def _set(self, vcpu: Vcpu, argument: bytearray) -> int:
        self._ready(vcpu)
        register, address = struct.unpack("=QQ", argument)
        if register not in vcpu.registers or self._hides(vcpu, register):
            raise os_error(errno.ENOENT)
        name = name_of(register)
        old = vcpu.vm.registers.get(register, vcpu.registers[register])
        new = int.from_bytes(ctypes.string_at(address, len(old)), "little")
        own = int.from_bytes(vcpu.fresh[register], "little")
        mask = (self.host.writable_masks or {}).get(register, 0)
        if (error := judge(name, own, int.from_bytes(old, "little"), new, mask)) is not None:
            raise os_error(error)
        value = kept(name, own, new, masks=self.host.writable_masks is not None).to_bytes(len(old), "little")
        if register == TIMER_CNT:
            self.offset = new - self.time * self.hz // 10**9
        elif name.startswith("ID_") or name in {"CTR_EL0", *FIRMWARE}:
            vcpu.vm.registers[register] = value
        elif self.obeys_pmu and name in {*PAIRS, *PAIRS.values()}:
            state = id_of(PAIRS.get(name, name))
            where, now = obeys(name, int.from_bytes(vcpu.registers[state], "little"), new) or (name, new)
            vcpu.registers[id_of(where)] = now.to_bytes(8, "little")
        else:
            vcpu.registers[register] = value
        return 0

    def _file(self, what: Any) -> int:
        self.opened += 1
        self.files[100 + self.opened] = what
        return 100 + self.opened


def os_error(number: int) -> OSError:
    """As the system call raises it."""
    return OSError(number, os.strerror(number))
