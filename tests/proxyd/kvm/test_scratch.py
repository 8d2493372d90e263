"""A scratch VM against a kernel that is as strict as the real one."""

from __future__ import annotations

import errno

import pytest

from formats.arm64.register_id import id_of
from proxyd.kvm import abi
from proxyd.kvm.abi import Capability, InterruptController
from proxyd.kvm.features import OF_CPU_HOST, Feature
from proxyd.kvm.scratch import ScratchVm
from proxyd.kvm.system import CallRefused, KvmUnavailable
from tests.proxyd.kvm.fake_kernel import ALL, PC, SVE_VLS, V0, ZREG0, FakeKernel, real_host

PLAIN = (Feature.PSCI,)
MMFR3 = id_of("ID_AA64MMFR3_EL1")
CCSIDR = 0x6020000000110000


def test_the_list_is_complete_and_ascending() -> None:
    kernel = FakeKernel()
    with ScratchVm(kernel) as vm:
        ids = vm.vcpu(OF_CPU_HOST).register_ids()
    assert list(ids) == sorted({*kernel.host.registers, PC, V0, ZREG0, SVE_VLS})


def test_a_list_that_grows_between_the_calls() -> None:
    """Nothing that KVM does today, but its interface allows it."""
    kernel = FakeKernel()
    lengths = iter([3, 5, 7])
    honest = kernel._list

    def growing(vcpu: object, argument: bytearray) -> int:
        claimed = next(lengths, None)
        if claimed is None:
            return honest(vcpu, argument)  # type: ignore[arg-type]
        argument[:8] = claimed.to_bytes(8, "little")
        raise OSError(errno.E2BIG, "too long")

    kernel._list = growing  # type: ignore[method-assign]
    with ScratchVm(kernel) as vm:
        # The last claim is too low for the honest answer, which then says how many there are.
        assert len(vm.vcpu(PLAIN).register_ids()) > 100


def test_a_kernel_that_never_has_enough_room_is_an_error() -> None:
    kernel = FakeKernel()
    kernel.refuse[abi.KVM_GET_REG_LIST] = errno.E2BIG
    with ScratchVm(kernel) as vm, pytest.raises(CallRefused, match=r"KVM_GET_REG_LIST: .*E2BIG"):
        vm.vcpu(PLAIN).register_ids()


def test_another_error_than_too_short_is_an_error() -> None:
    kernel = FakeKernel()
    kernel.refuse[abi.KVM_GET_REG_LIST] = errno.ENOEXEC
    with ScratchVm(kernel) as vm, pytest.raises(CallRefused, match="ENOEXEC"):
        vm.vcpu(PLAIN).register_ids()


def test_values_of_each_width() -> None:
    kernel = FakeKernel()
    with ScratchVm(kernel) as vm:
        vcpu = vm.vcpu(OF_CPU_HOST)
        assert vcpu.get(MMFR3) == kernel.host.registers[MMFR3]
        assert vcpu.get(CCSIDR) == kernel.host.registers[CCSIDR]
        assert vcpu.read(SVE_VLS) == bytes([0b11]) + bytes(63)
        assert vcpu.read(V0) == bytes(16)
        assert vcpu.values([MMFR3, ZREG0]) == {MMFR3: kernel.host.registers[MMFR3]}


def test_a_narrow_register_is_not_read_with_what_a_wide_one_left() -> None:
    kernel = FakeKernel(vector_lengths=(1 << 64) - 1)
    with ScratchVm(kernel) as vm:
        vcpu = vm.vcpu(OF_CPU_HOST)
        vcpu.read(SVE_VLS)
        assert vcpu.get(CCSIDR) == kernel.host.registers[CCSIDR]


def test_a_value_is_set_and_stays() -> None:
    with ScratchVm(FakeKernel()) as vm:
        vcpu = vm.vcpu(OF_CPU_HOST)
        tpidr = id_of("TPIDR_EL0")
        vcpu.set(tpidr, 0x8000_0000_0000_0001)
        assert vcpu.get(tpidr) == 0x8000_0000_0000_0001
        vcpu.set(CCSIDR, 0xFFFF_FFFF_0000_0007)  # QEMU writes the low half
        assert vcpu.get(CCSIDR) == 7


def test_what_kvm_does_not_take_is_named() -> None:
    with ScratchVm(FakeKernel()) as vm:
        vcpu = vm.vcpu(OF_CPU_HOST)
        with pytest.raises(CallRefused) as refused:
            vcpu.set(id_of("ID_AA64MMFR2_EL1"), 0xF << 24)
    assert str(refused.value) == ("KVM_SET_ONE_REG of ID_AA64MMFR2_EL1 (0x603000000013c03a): invalid argument (EINVAL)")
    assert refused.value.errno == errno.EINVAL


def test_a_register_that_is_not_there() -> None:
    with ScratchVm(FakeKernel()) as vm, pytest.raises(CallRefused, match=r"PMCR_EL0 \(0x603000000013dce0\).*ENOENT"):
        vm.vcpu(PLAIN).get(id_of("PMCR_EL0"))


def test_the_vm_is_as_wide_as_the_host_can() -> None:
    with ScratchVm(FakeKernel(capabilities=ALL | {165: 36})) as vm:  # where a type of 0, 40 bits, is refused
        assert vm.extension(Capability.ARM_VM_IPA_SIZE) == 36


def test_masks() -> None:
    kernel = FakeKernel()
    with ScratchVm(kernel) as vm:
        assert vm.writable_masks() == kernel.host.writable_masks


def test_an_old_kernel_has_no_masks() -> None:
    with ScratchVm(FakeKernel(real_host("6.1"), capabilities={**ALL, 230: 0})) as vm:
        assert vm.writable_masks() is None


def test_interrupt_controllers() -> None:
    with ScratchVm(FakeKernel(devices=[5, 7])) as vm:
        able = {controller for controller in InterruptController if vm.can_have(controller)}
    assert able == {InterruptController.V2, InterruptController.V3}


def test_an_interrupt_controller_that_fails_otherwise_is_an_error() -> None:
    kernel = FakeKernel()
    kernel.refuse[abi.KVM_CREATE_DEVICE] = errno.EFAULT
    with ScratchVm(kernel) as vm, pytest.raises(CallRefused, match="KVM_CREATE_DEVICE of V3: bad address"):
        vm.can_have(InterruptController.V3)


@pytest.mark.parametrize(
    ("feature", "missing"),
    [
        (Feature.PMU, ()),
        (Feature.PAUTH, (Capability.ARM_PTRAUTH_GENERIC,)),
        (Feature.EL2, (Capability.ARM_EL2,)),
    ],
)
def test_what_a_feature_lacks(feature: Feature, missing: tuple[Capability, ...]) -> None:
    with ScratchVm(FakeKernel(capabilities={**ALL, 172: 0})) as vm:
        assert vm.lacks(feature) == missing


def test_memory_tagging_is_enabled_before_there_is_a_vcpu() -> None:
    with ScratchVm(FakeKernel(capabilities=ALL | {205: 1}), mte=True) as vm:
        assert id_of("RGSR_EL1") in vm.vcpu(PLAIN).register_ids()


def test_several_vcpus_of_one_vm() -> None:
    with ScratchVm(FakeKernel()) as vm:
        first, second = (vm.vcpu(OF_CPU_HOST, number) for number in range(2))
        tpidr = id_of("TPIDR_EL0")
        first.set(tpidr, 1)
        assert second.get(tpidr) != 1
        with pytest.raises(CallRefused, match="KVM_CREATE_VCPU: file exists"):
            vm.vcpu(OF_CPU_HOST, 1)


def test_features_that_the_host_has_not_are_named_in_the_error() -> None:
    with ScratchVm(FakeKernel()) as vm, pytest.raises(CallRefused) as refused:
        vm.vcpu([Feature.EL2, Feature.PSCI])
    assert str(refused.value) == "KVM_ARM_VCPU_INIT of a vCPU with psci, el2: invalid argument (EINVAL)"


def test_nothing_stays_open() -> None:
    kernel = FakeKernel()
    with ScratchVm(kernel) as vm:
        vm.vcpu(PLAIN)
        assert len(kernel.files) == 3
    assert kernel.files == {}
    vm.close()


@pytest.mark.parametrize("request_", [abi.KVM_CREATE_VM, abi.KVM_ENABLE_CAP])
def test_nothing_stays_open_when_it_does_not_come_up(request_: int) -> None:
    kernel = FakeKernel()
    kernel.refuse[request_] = errno.ENOMEM
    with pytest.raises(CallRefused, match="ENOMEM"):
        ScratchVm(kernel, mte=True)
    assert kernel.opened
    assert kernel.files == {}


def test_another_interface_is_not_spoken() -> None:
    kernel = FakeKernel()
    kernel.api_version = 13
    with pytest.raises(KvmUnavailable, match=r"^version 12 of KVM's interface expected, found 13$"):
        ScratchVm(kernel)
    assert kernel.files == {}
