"""The numbers are the kernel's: compiled for arm64 from the headers of Linux 7.3."""

from __future__ import annotations

import pytest

from formats.arm64.register_id import id_of, kind_of, size_of
from proxyd.kvm import abi
from tests.proxyd.kvm.fake_kernel import real_host

GOLDEN = {
    "KVM_GET_API_VERSION": 0xAE00,
    "KVM_CREATE_VM": 0xAE01,
    "KVM_CHECK_EXTENSION": 0xAE03,
    "KVM_CREATE_VCPU": 0xAE41,
    "KVM_ENABLE_CAP": 0x4068AEA3,
    "KVM_GET_ONE_REG": 0x4010AEAB,
    "KVM_SET_ONE_REG": 0x4010AEAC,
    "KVM_ARM_VCPU_INIT": 0x4020AEAE,
    "KVM_ARM_PREFERRED_TARGET": 0x8020AEAF,
    "KVM_GET_REG_LIST": 0xC008AEB0,
    "KVM_ARM_GET_REG_WRITABLE_MASKS": 0x8040AEB6,
    "KVM_ARM_VCPU_FINALIZE": 0x4004AEC2,
    "KVM_CREATE_DEVICE": 0xC00CAEE0,
    "KVM_SET_DEVICE_ATTR": 0x4018AEE1,
}


@pytest.mark.parametrize(("name", "number"), GOLDEN.items())
def test_ioctl_numbers(name: str, number: int) -> None:
    assert getattr(abi, name) == number
    assert abi.NAMES[number] == name


def test_every_ioctl_has_a_golden_number() -> None:
    assert set(abi.NAMES.values()) == set(GOLDEN)


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (abi.VCPU_INIT, 32),
        (abi.ONE_REG, 16),
        (abi.REG_LIST, 8),
        (abi.CREATE_DEVICE, 12),
        (abi.DEVICE_ATTR, 24),
        (abi.ENABLE_CAP, 104),
        (abi.REG_MASK_RANGE, 64),
        (abi.FINALIZE, 4),
    ],
)
def test_sizes_of_structs(layout: object, size: int) -> None:
    assert layout.size == size  # type: ignore[attr-defined]


def test_masks_are_those_of_the_id_register_space() -> None:
    assert abi.masked_register(0) == id_of("MIDR_EL1")
    assert abi.masked_register(4 * 8 + 1) == id_of("ID_AA64PFR1_EL1")
    assert abi.masked_register(64 + 1) == id_of("CLIDR_EL1")
    assert abi.masked_register(64 + 7) == id_of("AIDR_EL1")
    assert abi.masked_register(128 + 1) == id_of("CTR_EL0")
    assert len({abi.masked_register(index) for index in range(abi.MASKS)}) == abi.MASKS


def test_every_mask_of_real_kernels_has_its_place() -> None:
    places = {abi.masked_register(index) for index in range(abi.MASKS)}
    for kernel in ("6.12", "6.18", "7.3"):
        assert places.issuperset(real_host(kernel).writable_masks or {0: 0})


def test_the_vector_lengths_register() -> None:
    assert kind_of(abi.SVE_VLS) == "sve"
    assert size_of(abi.SVE_VLS) == 64


def test_capability_names_are_those_that_descriptions_have() -> None:
    """Lists that were read by another program name the same capabilities with the same meaning."""
    assert {capability.name for capability in abi.Capability} >= {"ARM_SVE", "ARM_PMU_V3", "STEAL_TIME", "ARM_EL2"}
    assert len({int(capability) for capability in abi.Capability}) == len(abi.Capability.__members__)
