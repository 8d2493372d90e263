"""Log lines: what people and machines read, and what a stream cannot forge."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator

import pytest

from proxyd import journal as logs
from proxyd.config import LogConfig, LogFormat, LogLevel
from proxyd.journal import LOGGER, Journal
from proxyd.line_writer import LineWriter
from proxyd.rewrite.plan import Action, Change, Notice, Outcome, Plan, Refusal
from proxyd.rewrite.verdict import Verdict
from tests.proxyd.relay.stage import REMOVED, TCR2_EL1, a_journal


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Put the logger back: others configure it too."""
    loggers = (LOGGER, logging.getLogger("trio"))
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, was in zip(loggers, before, strict=True):
        logger.handlers[:], logger.level, logger.propagate = was


def written(
    form: LogFormat = LogFormat.TEXT, level: LogLevel = LogLevel.INFO, *, journald: bool = False
) -> tuple[Journal, io.StringIO]:
    stream = io.StringIO()
    logs.configure(LogConfig(level=level, format=form), stream, journald=journald)
    return Journal(), stream


def test_a_text_line() -> None:
    journal, stream = written()
    journal.having(migration="abc").info(
        "migration begins", machine="virt-10.0", bytes=5, ok=True, hold_s=0.25, no=None
    )
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info    migration begins "
        r"migration=abc machine=virt-10\.0 bytes=5 ok=true hold_s=0\.25\n",
        stream.getvalue(),
    )


@pytest.mark.parametrize(("method", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3)])
def test_under_systemd_the_priority_replaces_the_time(method: str, priority: int) -> None:
    journal, stream = written(level=LogLevel.DEBUG, journald=True)
    getattr(journal, method)("hello", route="lab")
    assert stream.getvalue() == f"<{priority}>hello route=lab\n"


def test_a_level_that_nobody_asked_for_is_not_written() -> None:
    journal, stream = written(level=LogLevel.WARNING)
    journal.info("x")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ('a"b', '"a\\"b"'),
        ("a=b", '"a=b"'),
        ("evil\n<3>forged", '"evil\\n<3>forged"'),
        ("\x1b[31m", '"\\u001b[31m"'),
    ],
)
def test_foreign_text_stays_within_its_field(value: str, text: str) -> None:
    journal, stream = written(journald=True)
    journal.info("x", machine=value)
    assert stream.getvalue() == f"<6>x machine={text}\n"


def test_foreign_text_in_a_message_stays_within_its_line() -> None:
    journal, stream = written(journald=True)
    journal.info("section 'a\nb' %s %d")
    assert stream.getvalue() == "<6>section 'a\\nb' %s %d\n"


def test_a_json_line() -> None:
    journal, stream = written(LogFormat.JSON)
    journal.info("hello\n", route="lab", count=2, none=None, message_kind="SHUT")
    entry = json.loads(stream.getvalue())
    assert list(entry) == ["time", "level", "logger", "message", "route", "count", "message_kind"]
    assert entry["message"] == "hello\n"
    assert entry["level"] == "info"
    assert entry["count"] == 2
    assert stream.getvalue().count("\n") == 1


def test_fields_do_not_replace_the_facts_of_a_json_line() -> None:
    journal, stream = written(LogFormat.JSON)
    journal.info("true", time="never", level="none")
    entry = json.loads(stream.getvalue())
    assert entry["level"] == "info"
    assert entry["time"] != "never"


def test_a_bug_comes_with_its_traceback() -> None:
    for form, journald in ((LogFormat.TEXT, False), (LogFormat.TEXT, True), (LogFormat.JSON, False)):
        journal, stream = written(form, journald=journald)
        with pytest.raises(ZeroDivisionError) as caught:
            1 / 0  # noqa: B018 - a bug with a traceback
        journal.error("a bug", exc_info=caught.value)
        lines = stream.getvalue().splitlines()
        if form is LogFormat.JSON:
            assert json.loads(lines[0])["exception"].endswith("ZeroDivisionError: division by zero")
        else:
            assert lines[-1] == ("<3>    " if journald else "    ") + "ZeroDivisionError: division by zero"


def test_configuring_again_replaces(capsys: pytest.CaptureFixture[str]) -> None:
    written()
    journal, stream = written(journald=True)
    journal.info("once")
    assert stream.getvalue() == "<6>once\n"
    logs.configure(LogConfig())
    journal.info("to standard error")
    assert "to standard error" in capsys.readouterr().err
    assert len(LOGGER.handlers) == 1


def test_standard_error_leads_to_the_journal_if_it_is_the_file_that_systemd_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as stderr:
        there = os.fstat(write)
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino}")
        logs.configure(LogConfig())
        Journal().info("hello")
        stderr.flush()
        assert reader.readline() == "<6>hello\n"
        monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino + 1}")
        logs.configure(LogConfig())
        Journal().info("hello")
        stderr.flush()
        assert reader.readline().endswith("info    hello\n")


def test_a_standard_error_without_a_file_is_no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    logs.configure(LogConfig())
    Journal().info("hello")
    assert stream.getvalue().endswith("info    hello\n")


def test_a_record_of_somebody_else_s_is_written_too() -> None:
    _, stream = written(journald=True)
    logging.getLogger("proxyd.other").log(logging.CRITICAL, "hello")
    assert stream.getvalue() == "<6>hello\n"


@pytest.mark.parametrize("form", [LogFormat.TEXT, LogFormat.JSON])
def test_the_daemon_s_lines_go_through_a_queue(form: LogFormat) -> None:
    read, write = os.pipe()
    with os.fdopen(read) as reader:
        with LineWriter(write) as lines:
            logs.configure(LogConfig(format=form), lines, journald=True)
            Journal().info("hello")
            logging.getLogger("trio").warning("of trio's")
            notices = [lines.notice(1), lines.notice(12)]
        os.close(write)
        written = reader.read().splitlines()
    if form is LogFormat.TEXT:
        assert written == ["<6>hello", "<4>of trio's"]
        assert notices == [
            "<4>1 line was lost here: whoever reads them stood still lost=1\n",
            "<4>12 lines were lost here: whoever reads them stood still lost=12\n",
        ]
    else:
        assert [json.loads(line)["message"] for line in written] == ["hello", "of trio's"]
        assert json.loads(notices[1])["lost"] == 12


# Plans.


def test_each_change_is_one_line() -> None:
    journal, told = a_journal()
    put = Change(
        vcpu=1,
        action=Action.SET,
        register=TCR2_EL1,
        field="PIE",
        old=1,
        new=0,
        verdict=Verdict.LOSSY,
        reason="allowed",
        rule="profile rule[0]",
        evidence="measured",
        allowed=True,
    )
    plan = Plan(Outcome.LOADS_REWRITTEN, (REMOVED, put), (), (), (), ())
    logs.write_plan(journal, plan)
    assert [(level, message) for level, message, _ in told.lines] == [
        ("INFO", "register removed"),
        ("INFO", "register set"),
    ]
    assert told.lines[0][2]["old"] == "0x0"
    assert told.lines[0][2]["new"] is None
    assert told.lines[0][2]["allowed"] is None
    assert told.lines[1][2] == {
        "vcpu": 1,
        "register": "TCR2_EL1 (0x603000000013c103)",
        "field": "PIE",
        "old": "0x1",
        "new": "0x0",
        "verdict": "lossy",
        "reason": "allowed",
        "rule": "profile rule[0]",
        "evidence": "measured",
        "allowed": True,
    }


def test_a_notice_for_every_vcpu_is_one_line() -> None:
    journal, told = a_journal()
    notices = tuple(Notice(n, TCR2_EL1, "not in the stream") for n in range(64))
    plan = Plan(Outcome.LOADS_AS_IS, (), (), (*notices, Notice(0, None, "a new kernel")), (), ())
    logs.write_plan(journal, plan)
    assert told.lines == [
        ("INFO", "not in the stream", {"vcpu": 0, "vcpus": 64, "register": "TCR2_EL1 (0x603000000013c103)"}),
        ("INFO", "a new kernel", {"vcpu": 0, "vcpus": 1, "register": None}),
    ]


def test_every_action_has_its_word() -> None:
    assert set(logs._PAST) == {action.value for action in Action}


def test_each_refusal_is_one_line() -> None:
    journal, told = a_journal()
    refusal = Refusal(0, TCR2_EL1, 1, None, Verdict.UNKNOWN, "nothing is known of it")
    logs.write_refusals(journal, [refusal])
    assert told.lines == [("WARNING", str(refusal), {"verdict": "unknown"})]
