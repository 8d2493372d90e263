"""What a session's witness writes down, and when."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from formats.errors import FormatError
from proxyd.config import AuditConfig, Config, RecorderConfig
from proxyd.ports import CannotListen
from proxyd.relay.outcome import Ending, Outcome
from proxyd.rewrite.firewall import FirewallMode, FirewallPolicy
from proxyd.rewrite.recording import Recorded
from proxyd.rewrite.rewriter import RewriteRefused, StreamRewriter
from proxyd.witness import Witnesses
from tests import builders as b
from tests.proxyd.relay.stage import ScriptedRewriter, a_journal, a_route
from tests.proxyd.rewrite.test_recording import REFUSE, REMOVE, a_policy

DONE = Ending(Outcome.COMPLETED, "the guest runs there")


class Office:
    """Witnesses with a directory of their own."""

    def __init__(self, directory: Path, *, recorder: bool = True, audit: bool = True) -> None:
        self.directory = directory / "recordings"
        self.audit = directory / "audit"
        self.journal, self.told = a_journal()
        self.config = Config(
            recorder=RecorderConfig(directory="recordings" if recorder else None),
            audit=AuditConfig(file="audit" if audit else None),
            path=directory / "config.toml",
        )
        self.witnesses = Witnesses(self.journal)
        self.configure()

    def configure(self) -> None:
        with self.witnesses.configured(self.config):
            pass

    def recordings(self) -> list[Recorded]:
        self.witnesses.scribe.flush()
        paths = sorted(self.directory.iterdir()) if self.directory.exists() else []
        return [Recorded.parse(path.read_bytes()) for path in paths]

    def lines(self) -> list[dict[str, object]]:
        self.witnesses.scribe.flush()
        return [json.loads(line) for line in self.audit.read_text().splitlines()]


def carried(wire: bytes, profile: str = REMOVE) -> tuple[StreamRewriter, str | None]:
    rewriter = StreamRewriter(a_policy(profile))
    try:
        rewriter.feed(wire)
        rewriter.finish()
    except (FormatError, RewriteRefused) as error:
        return rewriter, str(error)
    return rewriter, None


def test_a_release_is_recorded_at_once_and_its_end_is_told(tmp_path: Path) -> None:
    office = Office(tmp_path)
    witness = office.witnesses(a_route(), "abc123", "192.0.2.1:1")
    rewriter, _ = carried(b.stream())
    witness.released(rewriter)
    (one,) = office.recordings()
    assert (one.facts.outcome, one.facts.migration, one.facts.machine) == ("released", "abc123", "virt-10.0")
    assert one.after
    assert rewriter.evidence is None, "held for the rest of the session"
    witness.ended(rewriter, DONE)
    office.witnesses.close()
    change, end = office.lines()
    assert (change["event"], change["name"], change["migration"]) == ("change", "TCR2_EL1", "abc123")
    assert (end["event"], end["outcome"], end["outcome_reason"]) == ("end", "completed", "the guest runs there")
    assert len(office.recordings()) == 1


def test_what_the_firewall_refused_is_recorded_as_that(tmp_path: Path) -> None:
    office = Office(tmp_path)
    witness = office.witnesses(a_route(), "abc123", "192.0.2.1:1")
    policy = dataclasses.replace(a_policy(REMOVE), firewall=FirewallPolicy(FirewallMode.DENY, section_bytes=10))
    rewriter = StreamRewriter(policy)
    with pytest.raises(RewriteRefused):
        rewriter.feed(b.stream())
    witness.ended(rewriter, Ending(Outcome.REFUSED, "firewall: too large"))
    office.witnesses.close()
    (one,) = office.recordings()
    assert (one.facts.denied, one.facts.outcome, one.after) == (True, "refused", b"")


def test_a_refusal_is_recorded_at_the_end(tmp_path: Path) -> None:
    office = Office(tmp_path)
    witness = office.witnesses(a_route(), "abc123", "192.0.2.1:1")
    rewriter, error = carried(b.stream(), REFUSE)
    assert error is not None
    witness.ended(rewriter, Ending(Outcome.REFUSED, error))
    (one,) = office.recordings()
    assert (one.facts.outcome, one.facts.reason, one.after) == ("refused", error, b"")
    assert [line["event"] for line in office.lines()] == ["end"]
    office.witnesses.close()


def test_what_could_not_be_read_is_recorded_too(tmp_path: Path) -> None:
    office = Office(tmp_path)
    rewriter, error = carried(b.stream()[:-3])
    assert error is not None
    office.witnesses(a_route(), "abc", "a").ended(rewriter, Ending(Outcome.BAD_STREAM, error))
    (one,) = office.recordings()
    assert b.stream().find(one.before) > 0
    office.witnesses.close()


def test_a_stream_without_device_state_leaves_no_recording(tmp_path: Path) -> None:
    office = Office(tmp_path)
    rewriter, _ = carried(b.MAGIC)
    office.witnesses(a_route(), "abc", "a").ended(rewriter, Ending(Outcome.SOURCE_GONE, "gone"))
    office.witnesses(a_route(), "abc", "a").ended(ScriptedRewriter(), DONE)
    assert office.recordings() == []
    assert len(office.lines()) == 2
    office.witnesses.close()


def test_without_either_nothing_is_written(tmp_path: Path) -> None:
    office = Office(tmp_path, recorder=False, audit=False)
    witness = office.witnesses(a_route(), "abc", "a")
    rewriter, _ = carried(b.stream())
    witness.released(rewriter)
    witness.ended(rewriter, DONE)
    office.witnesses.close()
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    office = Office(tmp_path)
    witness = office.witnesses(a_route(), "abc", "a")
    rewriter, _ = carried(b.stream())
    witness.ended(rewriter, DONE)
    office.witnesses.scribe.flush()
    office.audit.rename(tmp_path / "audit.1")
    office.configure()
    witness.ended(rewriter, DONE)
    assert len(office.lines()) == 1
    assert len((tmp_path / "audit.1").read_text().splitlines()) == 1
    office.witnesses.close()


def test_a_disk_that_is_full_is_told_and_nothing_else_happens(tmp_path: Path) -> None:
    office = Office(tmp_path, recorder=False)
    office.audit.unlink()
    office.audit.symlink_to("/dev/full")
    office.configure()
    rewriter, _ = carried(b.stream())
    office.witnesses(a_route(), "abc", "a").ended(rewriter, DONE)
    office.witnesses.scribe.flush()
    assert office.told.texts() == ["audit log: cannot be written: No space left on device"]
    office.witnesses.close()


def test_a_log_that_cannot_be_opened_changes_nothing(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.config = Config(audit=AuditConfig(file="no/such/audit"), path=tmp_path / "config.toml")
    with pytest.raises(CannotListen, match=r"audit\.file: cannot open no/such/audit: No such file"):
        office.configure()
    rewriter, _ = carried(b.stream())
    office.witnesses(a_route(), "abc", "a").ended(rewriter, DONE)
    assert len(office.lines()) == 1
    office.witnesses.close()


def test_what_fails_meanwhile_leaves_the_old_one_in_force(tmp_path: Path) -> None:
    office = Office(tmp_path)
    other = Config(audit=AuditConfig(file="other"), path=tmp_path / "config.toml")
    for config in (other, Config(path=tmp_path / "config.toml")):
        with pytest.raises(ZeroDivisionError), office.witnesses.configured(config):
            raise ZeroDivisionError
    rewriter, _ = carried(b.stream())
    office.witnesses(a_route(), "abc", "a").ended(rewriter, DONE)
    assert len(office.lines()) == 1
    assert (tmp_path / "other").read_text() == ""
    office.witnesses.close()
