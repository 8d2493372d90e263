"""What the checker guest prints is understood, also when a migration cut a line in two."""

import pytest

from tests.kvmlab.catalogue import LabError
from tests.kvmlab.checker import Checker, Difference, Tick
from tests.kvmlab.feed import Feed


def _checker(*lines: str) -> Checker:
    feed: Feed[str] = Feed("guest")
    for line in lines:
        feed.put(line)
    feed.end()
    return Checker(feed)


def test_half_a_line_is_no_tick() -> None:
    checker = _checker("00001a 00001b clean", "tick 00001b 00001c clean", "tick 00001c 0000")
    assert checker.ticks() == [Tick((0x1B, 0x1C), clean=True)]


def test_changed_and_identity_are_told_apart() -> None:
    checker = _checker(
        "changed cpu=1 TPIDR_EL0 00c0ffee12345679 0000000000000000",
        "identity cpu=0 ID_AA64MMFR2_EL1 0000000000001011 0000000001001011",
    )
    assert checker.changed() == [Difference(1, "TPIDR_EL0", 0x00C0FFEE12345679, 0)]
    assert [str(difference) for difference in checker.identity()] == ["vCPU 0 ID_AA64MMFR2_EL1 0x1011 -> 0x1001011"]


async def test_a_tick_counts_only_when_every_vcpu_went_on() -> None:
    checker = _checker("tick 000003 000001 clean", "tick 000004 000002 changed")
    assert await checker.beyond((2, 1)) == Tick((4, 2), clean=False)


async def test_a_fault_of_the_guest_is_told() -> None:
    with pytest.raises(LabError, match="fault cpu=0 esr=1"):
        await _checker("fault cpu=0 esr=1").beyond((0,))


async def test_a_guest_that_stops_counting_is_told() -> None:
    with pytest.raises(LabError, match="ended without what was waited for"):
        await _checker("tick 000003 clean").beyond((3,))
