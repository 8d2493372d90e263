"""What all migrations together may hold, and who loses when it is more."""

from __future__ import annotations

from proxyd.relay.held_memory import HeldMemory
from proxyd.relay.outcome import Ending, Outcome


class Holder:
    """A migration that can be abandoned."""

    def __init__(self, *, committed: bool = False) -> None:
        self.committed = committed
        self.endings: list[Ending] = []

    def abandon(self, ending: Ending) -> bool:
        if not self.committed:
            self.endings.append(ending)
        return not self.committed


def test_what_is_held_is_counted() -> None:
    held = HeldMemory(100)
    one, two = Holder(), Holder()
    held.change("192.0.2.1", one.abandon, 40)
    held.change("192.0.2.1", one.abandon, 50)
    held.change("192.0.2.2", two.abandon, 50)
    assert held.bytes == 100
    held.change("192.0.2.1", one.abandon, 0)
    assert held.bytes == 50
    held.change("192.0.2.2", two.abandon, 0)
    held.change("192.0.2.2", two.abandon, 0)
    assert held.bytes == 0
    assert not one.endings
    assert not two.endings


def test_the_source_that_holds_the_most_loses_its_largest() -> None:
    held = HeldMemory(100)
    honest, small, large = Holder(), Holder(), Holder()
    held.change("192.0.2.9", small.abandon, 30)
    held.change("192.0.2.9", large.abandon, 31)
    held.change("192.0.2.1", honest.abandon, 40)
    (ending,) = large.endings
    assert ending == Ending(
        Outcome.LIMIT,
        "at most 100 bytes of device state expected at once (limits.held_bytes), found 101; 192.0.2.9 holds 31 of "
        "them in this migration",
    )
    assert not honest.endings
    assert not small.endings
    held.change("192.0.2.9", large.abandon, 0)
    held.change("192.0.2.1", honest.abandon, 60)
    assert not honest.endings


def test_what_is_past_its_commit_point_counts_and_another_goes() -> None:
    held = HeldMemory(100)
    committed, small, other = Holder(committed=True), Holder(), Holder()
    held.change("192.0.2.9", committed.abandon, 90)
    held.change("192.0.2.9", small.abandon, 4)
    held.change("192.0.2.1", other.abandon, 7)
    assert len(small.endings) == 1
    assert not other.endings
    held.change("192.0.2.9", small.abandon, 0)
    held.change("192.0.2.9", committed.abandon, 101)
    assert len(other.endings) == 1, "whoever is left"
    held.change("192.0.2.1", other.abandon, 0)
    held.change("192.0.2.9", committed.abandon, 102)
    assert held.bytes == 102
