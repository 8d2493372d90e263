"""The description of a host that a kernel with a real host's registers gives."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from formats.arm64.register_id import id_of, name_of
from proxyd.kvm import abi
from proxyd.kvm.features import OF_CPU_HOST, Feature
from proxyd.kvm.probe import probe
from proxyd.kvm.system import CallRefused
from proxyd.rewrite.host import HostDescription
from tests.proxyd.kvm.fake_kernel import ALL, TIMER_CNT, FakeKernel, real_host

MIDRS = (0x414FD0C1,)


def probed(kernel: FakeKernel, features: Iterable[Feature] = OF_CPU_HOST) -> HostDescription:
    described = probe(
        kernel, kernel, features=frozenset(features), name="h", kernel="7.3.4", qemu="10.0.13", midrs=MIDRS
    )
    assert kernel.files == {}, "nothing stays open"
    return described


def timeless(registers: object) -> dict[int, int]:
    return {register: value for register, value in dict(registers).items() if register != TIMER_CNT}  # type: ignore[call-overload]


@pytest.mark.parametrize("cpu", ["neoverse-v1", "max"])
@pytest.mark.parametrize("version", ["6.12", "7.3"])
def test_the_list_values_and_masks_are_the_hosts(version: str, cpu: str) -> None:
    host = real_host(version, cpu)
    described = probed(FakeKernel(host))
    assert list(described.registers) == list(host.registers)
    assert timeless(described.registers) == timeless(host.registers)
    assert described.writable_masks == host.writable_masks


def test_everything_else_that_is_asked() -> None:
    described = probed(FakeKernel(real_host("7.3", "neoverse-v1"), vector_lengths=0b101))
    assert (described.name, described.kernel, described.qemu) == ("h", "7.3.4", "10.0.13")
    assert (described.origin, described.accelerator, described.cpu) == ("probe", "kvm", "neoverse-v1 r1p2")
    assert described.features == ("psci", "pmu", "sve", "pauth")
    assert described.missing_features == {}
    assert described.gic == ("v3", "its")
    assert described.counter_hz == 62_500_000
    assert described.midrs == MIDRS
    assert described.sve_vector_bits == (128, 384)
    assert described.pmu_writes == "stored"
    assert described.capabilities == {capability.name: ALL.get(capability.value, 0) for capability in abi.Capability}


def test_it_survives_its_file() -> None:
    described = probed(FakeKernel())
    assert HostDescription.parse(described.to_json(), "h.json") == described


def test_features_that_the_host_has_not_are_left_out_and_told() -> None:
    kernel = FakeKernel(capabilities={number: value for number, value in ALL.items() if number not in {170, 171, 172}})
    described = probed(kernel, {*OF_CPU_HOST, Feature.MTE})
    assert described.features == ("psci", "pmu")
    assert described.missing_features == {
        "sve": "KVM has no ARM_SVE",
        "pauth": "KVM has no ARM_PTRAUTH_ADDRESS and no ARM_PTRAUTH_GENERIC",
        "mte": "KVM has no ARM_MTE",
    }
    assert described.sve_vector_bits is None
    assert probed(FakeKernel(), {Feature.PSCI}).pmu_writes is None
    assert not any(name_of(register).startswith("APIA") for register in described.registers)


def test_memory_tagging() -> None:
    described = probed(FakeKernel(capabilities=ALL | {205: 1}), {Feature.PSCI, Feature.MTE})
    assert described.features == ("psci", "mte")
    assert id_of("RGSR_EL1") in described.registers
    bare = described.with_features({"psci"})
    assert bare is not None
    assert id_of("RGSR_EL1") not in bare.registers


def test_the_lists_of_smaller_sets_of_features() -> None:
    host = real_host("7.3", "max")
    described = probed(FakeKernel(host))
    assert {frozenset(variant.features) for variant in described.variants or ()} == {
        frozenset({"psci", *rest})
        for rest in [(), ("pmu",), ("sve",), ("pauth",), ("pmu", "sve"), ("pmu", "pauth"), ("sve", "pauth")]
    }
    for features in ({Feature.PSCI}, {Feature.PSCI, Feature.PMU}, {Feature.PSCI, Feature.SVE, Feature.PAUTH}):
        alone = probed(FakeKernel(host), features)
        derived = described.with_features({str(feature) for feature in features})
        assert derived is not None
        assert timeless(derived.registers) == timeless(alone.registers)
        assert derived.features == alone.features
        assert derived.sve_vector_bits == alone.sve_vector_bits


def test_a_variant_has_only_what_differs() -> None:
    described = probed(FakeKernel(), {Feature.PSCI, Feature.PMU})
    (variant,) = described.variants or ()
    assert {name_of(register)[:2] for register in variant.absent} == {"PM"}
    assert set(variant.registers) == {id_of("ID_AA64DFR0_EL1")}, "the counter counts on between the readings"


def test_an_old_kernel_without_masks() -> None:
    kernel = FakeKernel(real_host("6.1", "neoverse-n1"), capabilities={102: 1, 126: 1, 165: 48})
    described = probed(kernel)
    assert described.writable_masks is None
    assert described.features == ("psci", "pmu")
    assert id_of("PTIMER_CNT") not in described.registers


def test_a_counter_that_cannot_be_measured_is_left_out() -> None:
    assert probed(FakeKernel(call_ns=1_000_000)).counter_hz is None


def test_nothing_stays_open_when_a_register_cannot_be_read() -> None:
    kernel = FakeKernel()
    kernel.refuse[abi.KVM_GET_ONE_REG] = 5
    with pytest.raises(CallRefused, match=r"KVM_GET_ONE_REG of .*EIO"):
        probed(kernel)
    assert kernel.files == {}
