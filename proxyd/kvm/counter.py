"""How fast the generic timer counts: CNTFRQ_EL0, which no register list has and a guest reads directly.

A guest computes all its times with the frequency that it found when it booted, so a host with another one makes its
clock run wrong, and nothing fails. Python cannot read the register, so it is measured: KVM shows the counter
(TIMER_CNT), and CLOCK_MONOTONIC_RAW is the same counter, multiplied by what the kernel takes its frequency for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

TIMER_CNT: Final = 0x6030_0000_0013_DF1A
INTERVAL_NS: Final = 200_000_000
TRIES: Final = 16
NS: Final = 1_000_000_000
WORST: Final = 1_000  # parts of a million that a measurement may be wrong by, to be worth telling


class Clock(Protocol):
    """Time in nanoseconds."""

    def now(self) -> int:
        """CLOCK_MONOTONIC_RAW."""

    def wait(self, nanoseconds: int) -> None:
        """Let time pass."""


class HostClock:
    """The real one."""

    def now(self) -> int:
        """CLOCK_MONOTONIC_RAW, which nobody adjusts."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)

    def wait(self, nanoseconds: int) -> None:
        """Sleep."""
        time.sleep(nanoseconds / NS)


@dataclass(frozen=True, slots=True)
class _Sample:
    """The counter at a moment known to within ``spread`` nanoseconds."""

    count: int
    at: float
    spread: int


def counter_hz(read_counter: Callable[[], int], clock: Clock) -> int | None:
    """The frequency in Hz, with as many digits as the measurement is good for; None where it is not good enough.

    It takes :data:`INTERVAL_NS`. What limits it is how closely a reading of the counter can be put in time.
    """
    first = _best_sample(read_counter, clock)
    clock.wait(INTERVAL_NS)
    second = _best_sample(read_counter, clock)
    passed = second.at - first.at
    frequency = (second.count - first.count) * NS / passed
    error = (first.spread + second.spread) / 2 / passed
    if frequency <= 0 or error * 1_000_000 > WORST:
        return None
    return _rounded(frequency, frequency * error)


def _best_sample(read_counter: Callable[[], int], clock: Clock) -> _Sample:
    """The reading of several that took least time."""
    return min((_sample(read_counter, clock) for _ in range(TRIES)), key=lambda sample: sample.spread)


def _sample(read_counter: Callable[[], int], clock: Clock) -> _Sample:
    before = clock.now()
    count = read_counter()
    after = clock.now()
    return _Sample(count, (before + after) / 2, after - before)


def _rounded(frequency: float, error: float) -> int:
    """The number with fewest digits that is within the error: real counters have round frequencies."""
    step: int = 10 ** len(str(int(frequency)))
    while step > 1 and abs(round(frequency / step) * step - frequency) > error:
        step //= 10
    return round(frequency / step) * step
