"""What sessions share; the parts are tested where they are used."""

from __future__ import annotations

from proxyd.config import LimitsConfig
from proxyd.metrics import Metrics
from proxyd.relay.channel import dial
from proxyd.relay.surroundings import Surroundings
from tests.proxyd.relay.stage import a_journal


def test_each_daemon_has_its_own_books_and_real_parts() -> None:
    journal, _ = a_journal()
    one, other = (Surroundings(Metrics(), journal) for _ in range(2))
    assert one.migrations is not other.migrations
    assert one.held is not other.held
    assert one.held.limit == LimitsConfig().held_bytes
    assert one.dialler is dial
    assert one.store is None
