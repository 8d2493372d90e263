"""Features told from registers, and descriptions without some of them, against lists that were read without them."""

from __future__ import annotations

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.rewrite.host import HostDescription, Variant
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.vcpu_features import described_for, features_of
from tests import recorded

KNOWLEDGE = Knowledge.builtin()


def host(kernel: str, cpu: str) -> HostDescription:
    return HostDescription.parse(recorded.host_json(kernel, cpu), "host")


def test_features_are_told_from_the_list() -> None:
    assert features_of({}) == frozenset()
    assert features_of(host("7.3", "neoverse-n1").registers) == {"pmu"}
    assert features_of(host("7.3", "neoverse-v1").registers) == {"pmu", "sve", "pauth"}
    nested = {id_of("HCR_EL2"): 0, id_of("RGSR_EL1"): 0}
    assert features_of(nested) == {"el2", "mte"}


def test_the_same_features_need_nothing() -> None:
    description = host("7.3", "neoverse-v1")
    for features in ({"pmu", "sve", "pauth"}, {"pmu", "sve", "pauth", "el2"}):
        assert described_for(description, features, KNOWLEDGE) == (description, None)
    tcg = HostDescription(name="h", registers=description.registers, accelerator="tcg")
    assert described_for(tcg, (), KNOWLEDGE) == (tcg, None)


def test_a_list_that_was_read_goes_before_one_that_is_derived() -> None:
    pmcr, tpidr = id_of("PMCR_EL0"), id_of("TPIDR_EL1")
    variant = Variant(("psci",), frozenset({pmcr}), {tpidr: 7})
    description = HostDescription(
        name="h", registers=CpregList({pmcr: 0, tpidr: 0}), features=("psci", "pmu"), variants=(variant,)
    )
    found, remark = described_for(description, (), KNOWLEDGE)
    assert (dict(found.registers), remark) == ({tpidr: 7}, None)


@pytest.mark.parametrize("cpu", recorded.CPUS)
@pytest.mark.parametrize("kernel", recorded.KERNELS)
def test_what_is_derived_is_what_the_kernel_says(kernel: str, cpu: str) -> None:
    """Every smaller set of features of every host that was probed."""
    description = host(kernel, cpu)
    assert description.variants
    for variant in description.variants:
        read = description.with_features(variant.features)
        assert read is not None
        bare = HostDescription(name="h", registers=description.registers, kernel=kernel)
        derived, _ = described_for(bare, set(variant.features) - {"psci"}, KNOWLEDGE)
        assert dict(derived.registers) == dict(read.registers), variant.features
