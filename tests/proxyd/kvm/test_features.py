"""Features and the bits that ask for them."""

from __future__ import annotations

import pytest

from proxyd.kvm.features import OF_CPU_HOST, REQUIREMENTS, Feature, in_order, init_bits, parse_features


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("", {"psci"}),
        ("pmu", {"psci", "pmu"}),
        ("sve, pauth,", {"psci", "sve", "pauth"}),
        ("psci,pmu,pmu", {"psci", "pmu"}),
        ("el2,mte", {"psci", "el2", "mte"}),
    ],
)
def test_a_list_of_features(text: str, features: set[str]) -> None:
    assert parse_features(text) == features


def test_an_unknown_feature_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"^features of psci, pmu, sve, pauth, el2, mte expected, .* found 'SME'$"):
        parse_features("pmu,SME")


def test_the_order_is_always_the_same() -> None:
    assert in_order([Feature.MTE, Feature.PMU, Feature.PSCI]) == (Feature.PSCI, Feature.PMU, Feature.MTE)


@pytest.mark.parametrize(
    ("features", "bits"),
    [
        ((), 0),
        ((Feature.PSCI,), 0x04),
        (OF_CPU_HOST, 0x7C),  # what QEMU's -cpu host passes where the host has all
        ((Feature.PSCI, Feature.EL2), 0x84),
        ((Feature.MTE,), 0),
    ],
)
def test_bits_of_vcpu_init(features: tuple[Feature, ...], bits: int) -> None:
    assert init_bits(features) == bits


def test_every_feature_has_its_requirement() -> None:
    assert set(REQUIREMENTS) == set(Feature)
