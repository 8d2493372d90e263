"""How many connections fit into a process's file descriptors."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest

from proxyd import descriptors
from proxyd.config import LimitsConfig
from proxyd.descriptors import PER_CONNECTION, RESERVED, Fitting, available, fitting, put_in_force
from proxyd.relay.held_memory import HeldMemory
from proxyd.relay.listener import Sessions
from tests.proxyd.relay.stage import a_journal

LIMITS = LimitsConfig(connections=100, silent_connections=50)
NEEDED = RESERVED + 9 * 100 + 50


def test_what_fits_is_as_it_was_asked_for() -> None:
    assert fitting(LIMITS, NEEDED) == Fitting(100, 50)


def test_the_defaults_fit_into_the_packaged_unit() -> None:
    assert fitting(LimitsConfig(), 40960).remark is None


@pytest.mark.parametrize("count", [8, 64, 256, 600, 1200, NEEDED - 1])
def test_what_does_not_fit_is_lowered_until_it_does(count: int) -> None:
    found = fitting(LIMITS, count)
    assert 1 <= found.connections < 100
    assert 1 <= found.silent_connections <= 50
    assert found.remark is not None
    assert found.remark.endswith(f"{found.connections} and {found.silent_connections} are served")
    if count >= 64:
        assert PER_CONNECTION * found.connections + found.silent_connections <= max(count - RESERVED, count // 2)


class Limits:
    """The kernel's books."""

    def __init__(self, soft: int, hard: int, refuses: Exception | None = None) -> None:
        self.now = (soft, hard)
        self._refuses = refuses

    def get(self, _what: int) -> tuple[int, int]:
        return self.now

    def set(self, _what: int, wanted: tuple[int, int]) -> None:
        if self._refuses is not None:
            raise self._refuses
        self.now = wanted


@pytest.mark.parametrize(
    ("refuses", "found", "after"),
    [(None, 4096, (4096, 4096)), (PermissionError(), 1024, (1024, 4096)), (ValueError(), 1024, (1024, 4096))],
)
def test_the_soft_limit_is_raised_where_that_is_allowed(
    refuses: Exception | None, found: int, after: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(1024, 4096, refuses)
    replaced: dict[str, Callable[..., object]] = {"getrlimit": limits.get, "setrlimit": limits.set}
    for name, function in replaced.items():
        monkeypatch.setattr(descriptors.resource, name, function)
    assert available() == found
    assert limits.now == after


def test_a_process_without_a_difference_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(4096, 4096, AssertionError("nobody asked"))
    monkeypatch.setattr(descriptors.resource, "getrlimit", limits.get)
    monkeypatch.setattr(descriptors.resource, "setrlimit", limits.set)
    assert available() == 4096


def test_the_kernel_is_asked() -> None:
    assert available() == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_what_fits_is_put_in_force_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, held = Sessions(1), HeldMemory(1)
    journal, told = a_journal()
    put_in_force(LimitsConfig(connections=5, silent_connections=6, held_bytes=7), sessions, held, journal)
    assert (sessions.limit, sessions.strangers.limit, held.limit) == (5, 6, 7)
    assert not told.lines
    monkeypatch.setattr(descriptors, "available", lambda: 200)
    put_in_force(LimitsConfig(), sessions, held, journal)
    assert sessions.limit < 17
    assert [line[0] for line in told.lines] == ["WARNING"]
