"""Two hosts as they are for one guest."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.rewrite.guest_features import FeaturesError, for_guest, guest_features, host_features, left_out, meet
from proxyd.rewrite.host import HostDescription, Variant
from proxyd.rewrite.knowledge import Knowledge
from tests.recorded import host_json

KNOWLEDGE = Knowledge.builtin()
MIDR, PMCR = id_of("MIDR_EL1"), id_of("PMCR_EL0")

BARE = HostDescription("bare", CpregList({MIDR: 1}))
PMU = HostDescription(
    "pmu",
    CpregList({MIDR: 1, PMCR: 2}),
    features=("psci", "pmu"),
    variants=(Variant(("psci",), frozenset({PMCR}), {}),),
)
NONE = HostDescription("none", CpregList({MIDR: 1}), features=("psci",), missing_features={"pmu": "no"})


def test_the_guest_has_what_its_host_has() -> None:
    meeting = meet(PMU, PMU, KNOWLEDGE)
    assert (meeting.features, meeting.source, meeting.destination) == (("psci", "pmu"), PMU, PMU)
    assert (meeting.lacking, meeting.surplus) == ((), ())


def test_a_destination_that_lacks_a_feature_and_one_that_has_more() -> None:
    assert (meet(PMU, NONE, KNOWLEDGE).lacking, meet(PMU, NONE, KNOWLEDGE).surplus) == (("pmu",), ())
    assert (meet(NONE, PMU, KNOWLEDGE).lacking, meet(NONE, PMU, KNOWLEDGE).surplus) == ((), ("pmu",))


def test_a_guest_with_fewer_features_than_its_host() -> None:
    meeting = meet(PMU, NONE, KNOWLEDGE, ("psci",))
    assert list(meeting.source.registers) == [MIDR]
    assert meeting.lacking == ()


def test_a_description_that_does_not_tell_shows_its_features_in_its_list() -> None:
    assert host_features(BARE) == ("psci",)
    assert host_features(replace(PMU, features=None, variants=None)) == ("psci", "pmu")


def test_a_list_that_nobody_has_read_is_derived() -> None:
    real = HostDescription.parse(host_json("7.3", "neoverse-v1"), "real")
    assert host_features(real) == ("psci", "pmu", "sve", "pauth")
    without = for_guest(real, ("psci", "sve", "pauth"), KNOWLEDGE)
    assert PMCR not in without.registers
    assert len(without.registers) < len(real.registers) - 70
    assert for_guest(real, host_features(real), KNOWLEDGE) is real


def test_features_that_the_host_does_not_have() -> None:
    with pytest.raises(FeaturesError, match=r"^host pmu: features of psci, pmu expected, found psci, sve$"):
        for_guest(PMU, ("psci", "sve"), KNOWLEDGE)
    with pytest.raises(FeaturesError):
        meet(PMU, NONE, KNOWLEDGE, ("psci", "sve"))


@pytest.mark.parametrize(
    ("host", "wanted", "without", "features"),
    [
        (PMU, None, (), ("psci", "pmu")),
        (PMU, None, ("pmu",), ("psci",)),
        (PMU, None, ("psci",), ("psci", "pmu")),
        (PMU, ("sve", "psci"), (), ("psci", "sve")),
        (PMU, ("sve", "pmu"), ("pmu",), ("psci", "sve")),
        (BARE, None, ("pmu",), ("psci",)),
        (BARE, ("pmu",), (), ("psci", "pmu")),
    ],
)
def test_the_features_of_a_guest(
    host: HostDescription, wanted: tuple[str, ...] | None, without: tuple[str, ...], features: tuple[str, ...]
) -> None:
    assert guest_features(host, wanted, without) == features


def test_how_qemu_is_told() -> None:
    assert left_out(["pmu", "el2", "sve"]) == "-cpu host,pmu=off,sve=off -M virt,virtualization=off"
    assert left_out(["new", "pmu"]) == "without new -cpu host,pmu=off"
