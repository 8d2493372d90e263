"""The counter's frequency, measured on clocks that are known."""

from __future__ import annotations

import pytest

from proxyd.kvm.counter import HostClock, counter_hz


class Counter:
    """A clock and a counter that counts with it, each reading taking ``ns``, less often ``ns`` times a hundred."""

    def __init__(self, hz: int, ns: int, *, backwards: bool = False) -> None:
        self.hz, self.ns, self.backwards = hz, ns, backwards
        self.time = 123_456_789_012
        self.readings = 0
        self.waited = 0

    def now(self) -> int:
        self.readings += 1
        self.time += self.ns * (100 if self.readings % 5 == 0 else 1)
        return self.time

    def wait(self, nanoseconds: int) -> None:
        self.waited += nanoseconds
        self.time += nanoseconds

    def read(self) -> int:
        self.time += self.ns
        count = self.time * self.hz // 10**9
        return -count if self.backwards else count


@pytest.mark.parametrize("hz", [1_000_000_000, 62_500_000, 121_875_000, 54_000_000, 24_000_000, 19_200_000])
def test_frequencies_of_real_hosts(hz: int) -> None:
    counter = Counter(hz, 300)
    assert counter_hz(counter.read, counter) == hz
    assert counter.waited <= 1_000_000_000


def test_no_more_digits_than_were_measured() -> None:
    counter = Counter(62_512_345, 20_000)
    measured = counter_hz(counter.read, counter)
    assert measured is not None
    assert measured % 1_000 == 0
    assert abs(measured - 62_512_345) < 62_512_345 / 1_000


def test_an_odd_frequency_closely_measured_has_all_its_digits() -> None:
    counter = Counter(62_512_345, 0)
    assert abs((counter_hz(counter.read, counter) or 0) - 62_512_345) <= 10


@pytest.mark.parametrize("counter", [Counter(62_500_000, 1_000_000), Counter(62_500_000, 1, backwards=True)])
def test_nothing_is_told_that_is_not_known(counter: Counter) -> None:
    assert counter_hz(counter.read, counter) is None


def test_the_hosts_clock_goes_on_while_it_waits() -> None:
    clock = HostClock()
    before = clock.now()
    clock.wait(1_000_000)
    assert clock.now() - before >= 900_000
