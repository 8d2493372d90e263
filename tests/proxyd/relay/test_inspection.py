"""What of a multifd channel is looked at, what passes unseen, and what a finding does."""

from __future__ import annotations

import pytest

from proxyd.relay.inspection import Inspection
from proxyd.rewrite.firewall import Finding, FirewallMode, FirewallPolicy, FirewallRule
from proxyd.rewrite.refusal import RewriteRefused
from tests import builders as b

GOOD = b.multifd_packet(2)
BAD = b.multifd_packet(1, flags=b.MULTIFD_ZSTD, size=1 << 30)


def an_inspection(mode: FirewallMode = FirewallMode.ALERT) -> tuple[Inspection, list[Finding]]:
    found: list[Finding] = []
    return Inspection(FirewallPolicy(mode), b.PAGE, found.append), found


def test_headers_are_wanted_and_pages_are_not() -> None:
    inspection, found = an_inspection()
    for _ in range(3):
        assert (inspection.unseen, inspection.wanted) == (0, 12)
        inspection.look(GOOD[:12])
        assert (inspection.unseen, inspection.wanted) == (0, len(GOOD) - 12)
        inspection.look(GOOD[12:])
        assert inspection.unseen == 2 * b.PAGE
        inspection.passed(100)
        inspection.look(bytes(2 * b.PAGE - 100))
    assert found == []


def test_an_alert_is_told_once_and_the_reader_goes_on() -> None:
    inspection, found = an_inspection()
    inspection.look(BAD)
    assert inspection.unseen == 1 << 30
    inspection.passed(1 << 30)
    inspection.look(GOOD)
    assert [finding.rule for finding in found] == [FirewallRule.MULTIFD]


def test_a_denial_is_told_and_raised() -> None:
    inspection, found = an_inspection(FirewallMode.DENY)
    inspection.look(BAD[:-1])
    with pytest.raises(RewriteRefused, match="firewall: multifd packet: next_packet_size"):
        inspection.look(BAD[-1:])
    assert len(found) == 1


def test_where_packets_are_lost_everything_passes_or_nothing() -> None:
    inspection, found = an_inspection()
    inspection.look(GOOD + bytes(2 * b.PAGE) + b"no packet at all")
    assert inspection.unseen > 1 << 20
    inspection.passed(1 << 20)
    inspection.look(BAD)
    assert len(found) == 1
    assert "magic 11223344 and version 1 expected" in str(found[0])
    strict, _ = an_inspection(FirewallMode.DENY)
    with pytest.raises(RewriteRefused, match="magic 11223344"):
        strict.look(b"no packet at all")
