"""What is told of a session."""

from __future__ import annotations

import pytest

from proxyd.metrics import Direction, Metrics
from proxyd.relay.intake import Intake
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.record import SessionRecord, propose_command
from proxyd.rewrite.firewall import Finding, FirewallMode, FirewallRule
from proxyd.rewrite.rewriter import RewriteRefused
from tests.proxyd.relay.stage import REFUSAL, ScriptedRewriter, Told, a_journal, value


def a_record() -> tuple[SessionRecord, Metrics, Told]:
    metrics = Metrics()
    journal, told = a_journal()
    return SessionRecord("lab", "source:1", metrics, journal), metrics, told


@pytest.mark.parametrize(
    ("outcome", "silent", "level"),
    [
        (Outcome.COMPLETED, False, "INFO"),
        (Outcome.DELIVERED, False, "INFO"),
        (Outcome.NOT_MIGRATION, False, "INFO"),
        (Outcome.NOT_MIGRATION, True, "DEBUG"),
        (Outcome.REFUSED, False, "WARNING"),
        (Outcome.DRAINED, False, "WARNING"),
        (Outcome.INTERNAL_ERROR, False, "WARNING"),
    ],
)
def test_the_last_line_says_how_it_ended(outcome: Outcome, silent: bool, level: str) -> None:
    record, metrics, told = a_record()
    record.relayed(Direction.TO_DESTINATION, 5)
    record.relayed(Direction.TO_DESTINATION, 6)
    record.relayed(Direction.TO_SOURCE, 7)
    record.ended(Ending(outcome, "because"), 1.23456, silent=silent)
    assert told.lines == [
        (
            level,
            f"{outcome.value}: because",
            {
                "migration": record.id,
                "route": "lab",
                "outcome": outcome.value,
                "source": "source:1",
                "bytes_to_destination": 11,
                "bytes_to_source": 7,
                "seconds": 1.235,
            },
        )
    ]
    assert value(metrics, "proxyd_migrations_total", route="lab", outcome=outcome.value) == 1
    assert value(metrics, "proxyd_bytes_total", route="lab", direction="to_destination") == 11


async def test_a_release_tells_each_change_and_then_the_sum() -> None:
    record, metrics, told = a_record()
    intake = Intake(ScriptedRewriter(), "lab", metrics)
    intake.feed(b"QEVM/[state]")
    record.released(intake)
    assert told.texts() == ["register removed", "the destination invents it", "device state released"]
    fields = told.lines[-1][2]
    assert fields["changes"] == 1
    assert fields["hold_s"] >= 0
    assert fields["rewrite_s"] > 0
    assert value(metrics, "proxyd_registers_total", route="lab", action="remove", verdict="proven") == 1


async def test_a_release_without_a_rewrite_says_why() -> None:
    record, metrics, told = a_record()
    intake = Intake(ScriptedRewriter(), "lab", metrics)
    intake.feed(b"QEVM/[plain]")
    record.released(intake)
    assert told.texts() == ["nothing is rewritten: no destination is described", "device state released"]


async def test_a_pipe_has_no_release_to_tell_of() -> None:
    record, metrics, told = a_record()
    intake = Intake(ScriptedRewriter(), "lab", metrics)
    intake.feed(b"QEVM~")
    record.released(intake)
    assert told.lines == []


async def test_the_beginning_names_both_ends_and_the_machine() -> None:
    record, metrics, told = a_record()
    intake = Intake(ScriptedRewriter(), "lab", metrics)
    intake.feed(b"QEVM~")
    record.begins("destination:2", intake)
    assert told.texts() == ["migration begins", "nothing is rewritten: another architecture"]
    assert told.lines[0][2]["machine"] == "virt-10.0"


def test_a_refusal_is_told_and_counted_by_register() -> None:
    record, metrics, told = a_record()
    record.refused(RewriteRefused("refused", (REFUSAL, REFUSAL)))
    assert told.texts() == [str(REFUSAL), str(REFUSAL)]
    assert value(metrics, "proxyd_registers_total", route="lab", action="refuse", verdict="unknown") == 2


def test_a_bug_is_told_as_one() -> None:
    record, _, told = a_record()
    record.failed(ValueError("x"))
    assert [line[:2] for line in told.lines] == [("ERROR", "a bug of proxyd's; please report it with these lines")]


async def test_a_destination_that_failed_with_what_the_plan_held_good_leads_to_a_proposal() -> None:
    metrics = Metrics()
    journal, told = a_journal()
    record = SessionRecord("lab", "source:1", metrics, journal, "/etc/proxyd/new host.json")
    intake = Intake(ScriptedRewriter(), "lab", metrics)
    intake.feed(b"QEVM/[state]")
    record.released(intake)
    record.ended(Ending(Outcome.DESTINATION_FAILED, "it said SHUT(1)"), 1, silent=False)
    level, text, fields = told.lines[-2]
    assert level == "WARNING"
    assert text.startswith("the destination failed with registers that the plan held good")
    assert fields["propose"] == (
        "proxyd explain --propose --stream STREAM --destination '/etc/proxyd/new host.json' QEMU.log"
    )
    assert told.texts()[-1] == "destination_failed: it said SHUT(1)"


@pytest.mark.parametrize(
    ("fed", "outcome"), [(b"QEVM/[plain]", Outcome.DESTINATION_FAILED), (b"QEVM/[state]", Outcome.COMPLETED)]
)
async def test_nothing_is_proposed_where_nothing_was_planned_or_nothing_failed(fed: bytes, outcome: Outcome) -> None:
    record, metrics, told = a_record()
    intake = Intake(ScriptedRewriter(), "lab", metrics)
    intake.feed(fed)
    record.released(intake)
    record.ended(Ending(outcome, "so"), 1, silent=False)
    assert not any("plan held good" in text for text in told.texts())


def test_a_destination_that_only_a_profile_describes() -> None:
    assert propose_command(None) == "proxyd explain --propose --stream STREAM QEMU.log"


@pytest.mark.parametrize("log_works", [True, False])
async def test_a_bug_in_telling_is_told_and_goes_no_further(
    *, log_works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, metrics, told = a_record()

    def break_(*_: object, **__: object) -> None:
        raise RuntimeError("a label too many")

    for name in ("count_bytes", "count_plan", "count_migration"):
        monkeypatch.setattr(metrics, name, break_)
    intake = Intake(ScriptedRewriter(), "lab", Metrics())
    intake.feed(b"QEVM/[state]")
    if not log_works:
        monkeypatch.setattr(record, "failed", break_)
    record.relayed(Direction.TO_SOURCE, 1)
    record.released(intake)
    record.ended(Ending(Outcome.COMPLETED, "because"), 1, silent=False)
    bugs = [line for level, line, _ in told.lines if level == "ERROR"]
    assert len(bugs) == (3 if log_works else 0)


def test_a_finding_is_counted_and_told_unless_the_last_line_says_it() -> None:
    record, metrics, told = a_record()
    finding = Finding(FirewallRule.SIZE, "section 'cpu': at most 1 bytes expected, found 2")
    record.found(finding, FirewallMode.ALERT)
    record.found(finding, FirewallMode.DENY)
    assert [(level, text, fields["rule"]) for level, text, fields in told.lines] == [
        ("WARNING", f"firewall: {finding}", "size")
    ]
    for mode in ("alert", "deny"):
        assert value(metrics, "proxyd_firewall_findings_total", route="lab", rule="size", mode=mode) == 1
