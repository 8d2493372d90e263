"""Two hosts as they are for one guest."""

from __future__ import annotations

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.rewrite.guest_features import FeaturesError, for_guest, guest_features, left_out, meet
from proxyd.rewrite.host import HostDescription, Variant

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
    meeting = meet(PMU, PMU)
    assert (meeting.features, meeting.source, meeting.destination) == (("psci", "pmu"), PMU, PMU)
    assert (meeting.lacking, meeting.surplus) == ((), ())


def test_a_destination_that_lacks_a_feature_starts_no_such_guest() -> None:
    meeting = meet(PMU, NONE)
    assert (meeting.destination, meeting.lacking) == (None, ("pmu",))


def test_a_destination_with_more_is_taken_with_the_guests_features() -> None:
    meeting = meet(NONE, PMU)
    assert meeting.surplus == ("pmu",)
    assert meeting.destination is not None
    assert list(meeting.destination.registers) == [MIDR]


def test_a_guest_with_fewer_features_than_its_host() -> None:
    meeting = meet(PMU, NONE, ("psci",))
    assert list(meeting.source.registers) == [MIDR]
    assert meeting.destination is NONE


@pytest.mark.parametrize(("source", "destination"), [(BARE, PMU), (PMU, BARE)])
def test_what_is_not_known_is_taken_as_it_is(source: HostDescription, destination: HostDescription) -> None:
    meeting = meet(source, destination)
    assert meeting.features == source.features
    assert (meeting.source, meeting.destination) == (source, destination)


def test_a_list_that_nobody_has_read() -> None:
    with pytest.raises(
        FeaturesError, match=r"^host pmu: .* features psci,sve expected, found lists for psci,pmu; psci$"
    ):
        for_guest(PMU, ("psci", "sve"))
    with pytest.raises(FeaturesError, match=r"^host bare: .* does not say which features"):
        meet(BARE, PMU, ("psci",))


@pytest.mark.parametrize(
    ("host", "wanted", "without", "features"),
    [
        (PMU, None, (), ("psci", "pmu")),
        (PMU, None, ("pmu",), ("psci",)),
        (PMU, ("sve", "psci"), (), ("psci", "sve")),
        (PMU, ("sve", "pmu"), ("pmu",), ("psci", "sve")),
        (BARE, None, (), None),
        (BARE, None, ("pmu",), ("psci",)),
        (BARE, ("pmu",), (), ("psci", "pmu")),
    ],
)
def test_the_features_of_a_guest(
    host: HostDescription, wanted: tuple[str, ...] | None, without: tuple[str, ...], features: tuple[str, ...] | None
) -> None:
    assert guest_features(host, wanted, without) == features


def test_how_qemu_is_told() -> None:
    assert left_out(["pmu", "el2"]) == "-cpu host,pmu=off, -M virt,virtualization=off"
    assert left_out(["new"]) == "without new"
