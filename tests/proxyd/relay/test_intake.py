"""The rewriter's facts, counted as they become known."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from formats.errors import (
    FooterMismatch,
    FormatError,
    LimitExceeded,
    SchemaMismatch,
    TruncatedStream,
    UnknownSection,
    UnsupportedStream,
)
from proxyd.metrics import Metrics
from proxyd.relay.intake import Intake, Rewriter, ending_of, rewriter_for
from proxyd.relay.outcome import Outcome
from proxyd.rewrite.firewall import Finding
from proxyd.rewrite.rewriter import Phase, RewriteRefused, StreamRewriter
from tests.proxyd.relay.stage import FAITHFUL, ScriptedRewriter, a_route, value


def an_intake() -> tuple[Intake, Metrics]:
    metrics = Metrics()
    return Intake(ScriptedRewriter(), "lab", metrics), metrics


async def test_the_phase_of_a_session_moves_with_its_stream() -> None:
    intake, metrics = an_intake()
    seen = []
    for chunk in (b"QEVM", b"/", b"[", b"]"):
        intake.feed(chunk)
        seen.append([p.value for p in Phase if value(metrics, "proxyd_active_sessions", phase=p.value) == 1])
    assert seen == [["prologue"], ["memory"], ["holding"], ["released"]]
    intake.close()
    intake.close()
    assert value(metrics, "proxyd_active_sessions") == 0


async def test_held_bytes_are_counted_and_given_back() -> None:
    intake, metrics = an_intake()
    intake.feed(b"QEVM/[abc")
    assert value(metrics, "proxyd_held_bytes", route="lab") == 4
    intake.feed(b"]")
    assert value(metrics, "proxyd_held_bytes", route="lab") == 0


async def test_a_session_that_ends_while_it_holds_gives_its_bytes_back() -> None:
    intake, metrics = an_intake()
    intake.feed(b"QEVM/[abc")
    intake.close()
    assert value(metrics, "proxyd_held_bytes", route="lab") == 0


async def test_sections_are_counted_once() -> None:
    intake, metrics = an_intake()
    intake.feed(b"QEVM/")
    intake.feed(b"ab")
    assert value(metrics, "proxyd_sections_total", kind="part") == 7


async def test_what_came_before_an_error_is_counted() -> None:
    intake, metrics = an_intake()
    with pytest.raises(FormatError):
        intake.feed(b"QEVM/!")
    assert value(metrics, "proxyd_sections_total", kind="part") == 5
    assert value(metrics, "proxyd_active_sessions", phase="memory") == 1


async def test_hold_time_runs_from_the_first_held_byte_to_the_release(autojump_clock: MockClock) -> None:
    intake, metrics = an_intake()
    intake.feed(b"QEVM/")
    await trio.sleep(5)
    intake.feed(b"[")
    await trio.sleep(2)
    intake.feed(b"a")
    await trio.sleep(1)
    assert intake.released is None
    intake.feed(b"]")
    assert intake.released is not None
    assert intake.released.hold_s == 3
    assert value(metrics, "proxyd_hold_seconds_sum") == 3
    assert value(metrics, "proxyd_rewrite_seconds_count") == 1


async def test_a_state_that_comes_in_one_piece_is_held_for_no_time(autojump_clock: MockClock) -> None:
    intake, _ = an_intake()
    assert not intake.is_pipe
    assert b"".join(intake.feed(b"QEVM/[a]")) == b"QEVM/<a>"
    assert intake.is_pipe
    assert intake.released is not None
    assert intake.released.hold_s == 0


async def test_a_stream_that_opens_to_everything_is_a_pipe_without_a_release() -> None:
    intake, _ = an_intake()
    intake.feed(b"QEVM~")
    assert intake.is_pipe
    assert intake.released is None
    assert intake.finish() == []


async def test_the_end_of_a_stream_that_is_not_whole_is_a_truncation() -> None:
    intake, _ = an_intake()
    intake.feed(b"QEVM/[open")
    with pytest.raises(TruncatedStream) as caught:
        intake.finish()
    assert str(caught.value) == "the stream ended while waiting for the next act"


def test_the_real_rewriter_is_one() -> None:
    route = a_route()
    rewriter: Rewriter = rewriter_for(route)
    assert isinstance(rewriter, StreamRewriter)
    assert rewriter.policy is route.policy
    assert rewriter.limits is route.stream_limits
    # What the relay looks at, all of it.
    assert rewriter.phase is Phase.PROLOGUE
    assert (rewriter.held_bytes, rewriter.bytes_in, rewriter.return_path) == (0, 0, False)
    assert (rewriter.machine, rewriter.passthrough_reason, rewriter.report) == (None, None, None)
    assert dict(rewriter.sections) == {}
    assert rewriter.waiting_for


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (FormatError("x"), Outcome.BAD_STREAM),
        (FooterMismatch("x"), Outcome.BAD_STREAM),
        (SchemaMismatch("x"), Outcome.BAD_STREAM),
        (UnknownSection("x"), Outcome.BAD_STREAM),
        (TruncatedStream("x"), Outcome.BAD_STREAM),
        (UnsupportedStream("x"), Outcome.UNSUPPORTED),
        (LimitExceeded("x"), Outcome.LIMIT),
        (RewriteRefused("x"), Outcome.REFUSED),
    ],
)
def test_each_error_has_its_outcome(error: FormatError | RewriteRefused, outcome: Outcome) -> None:
    ending = ending_of(error)
    assert ending.outcome is outcome
    assert ending.reason == "x"


async def test_a_release_after_a_rehearsal_is_timed_from_the_first_held_byte(autojump_clock: MockClock) -> None:
    intake, metrics = an_intake()
    intake.feed(b"QEVM/[rehearse")
    await trio.sleep(2)
    assert intake.feed(b"]") == []
    assert intake.rewriter.phase is Phase.REHEARSING
    assert (intake.released, intake.is_pipe) == (None, False)
    await trio.sleep(3)
    assert intake.release(FAITHFUL) == [b"<rehearse>"]
    assert intake.is_pipe
    assert intake.released is not None
    assert intake.released.hold_s == pytest.approx(5)
    assert intake.released.rewrite_s < 1
    assert value(metrics, "proxyd_hold_seconds_count", route="lab") == 1


async def test_findings_are_told_once_and_before_what_they_refuse() -> None:
    found: list[Finding] = []
    intake = Intake(ScriptedRewriter(), "lab", Metrics(), found=found.append)
    intake.feed(b"QEVM/$")
    intake.feed(b"pages")
    assert len(found) == 1
    with pytest.raises(RewriteRefused):
        intake.feed(b"$$?")
    assert len(found) == 3


async def test_what_is_on_its_way_is_held_until_it_has_left() -> None:
    metrics = Metrics()
    held: list[int] = []
    intake = Intake(ScriptedRewriter(), "lab", metrics, held.append)
    intake.feed(b"QEVM/[abc]")
    intake.deposit(5)
    assert value(metrics, "proxyd_held_bytes", route="lab") == 5
    intake.deposit(0)
    assert value(metrics, "proxyd_held_bytes", route="lab") == 0
    assert held == [5, 0]
