"""Who has to go when there are too many connections that have not shown what they are."""

from __future__ import annotations

import pytest

from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.strangers import Stranger, Strangers


def entered(strangers: Strangers, *origins: str) -> list[Stranger]:
    return [strangers.enter(origin) for origin in origins]


def test_they_come_and_go() -> None:
    strangers = Strangers(3)
    one, two = entered(strangers, "192.0.2.1", "192.0.2.2")
    assert len(strangers) == 2
    strangers.leave(one)
    strangers.leave(one)
    assert len(strangers) == 1
    assert one.ending is None
    assert two.ending is None
    assert not two.spoke()


def test_the_oldest_of_the_source_with_the_most_goes() -> None:
    strangers = Strangers(4)
    honest, first, second, third = entered(strangers, "192.0.2.1", "192.0.2.9", "192.0.2.9", "192.0.2.9")
    told: list[Ending] = []
    first.turn_away = told.append
    (other,) = entered(strangers, "192.0.2.2")
    assert told == [first.ending]
    assert first.ending == Ending(
        Outcome.TOO_MANY_CONNECTIONS,
        "more than 4 connections had not shown to be migrations (limits.silent_connections); 3 of them came from "
        "192.0.2.9, which has the most",
    )
    assert strangers.displaced == 1
    assert len(strangers) == 4
    entered(strangers, "192.0.2.9")
    assert second.ending is not None, "who comes counts among its own, before anybody has to go"
    assert [one.ending for one in (honest, other, third)] == [None] * 3


def test_among_equals_the_oldest_goes() -> None:
    strangers = Strangers(2)
    one, two = entered(strangers, "192.0.2.1", "192.0.2.2")
    (three,) = entered(strangers, "192.0.2.3")
    assert one.ending is not None
    assert two.ending is None
    assert three.ending is None


def test_who_has_said_something_goes_after_who_has_not() -> None:
    strangers = Strangers(2)
    one, two = entered(strangers, "192.0.2.1", "192.0.2.1")
    one.spoke = lambda: True
    (three,) = entered(strangers, "192.0.2.1")
    assert two.ending is not None
    three.spoke = lambda: True
    (four,) = entered(strangers, "192.0.2.1")
    assert four.ending is not None, "the newest, because it is the only one that is silent"
    four = entered(strangers, "192.0.2.1")[0]
    assert one.ending is None


def test_when_all_have_spoken_the_oldest_goes() -> None:
    strangers = Strangers(2)
    one, _ = two = entered(strangers, "192.0.2.1", "192.0.2.1")
    strangers.limit = 1
    for each in two:
        each.spoke = lambda: True
    (three,) = entered(strangers, "192.0.2.2")
    assert one.ending is not None
    assert strangers.displaced == 2, "a limit that a reload has lowered"
    assert three.ending is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("unix (pid 5)", "unix (pid 6)", False),
        ("unix (pid 5)", "unix (pid 5)", True),
    ],
)
def test_what_one_source_is(one: str, other: str, same: bool) -> None:
    first, second = entered(Strangers(9), one, other)
    assert (first.source == second.source) is same
