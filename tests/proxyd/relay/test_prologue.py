"""A main channel's first bytes, until the rewriter lets some go."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from proxyd.relay.intake import Buffer, Intake
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.prologue import PROLOGUE_STEP, read_prologue
from proxyd.relay.record import SessionRecord
from tests.proxyd.relay.legs import MemoryLeg, leg_pair
from tests.proxyd.relay.stage import ScriptedRewriter, Told, a_journal


async def read(first: bytes, *more: bytes, end: str = "open") -> tuple[list[Buffer] | Ending, Told]:
    source, leg = leg_pair("source:1", "proxyd")
    for piece in more:
        await source.say(piece)
    if end == "reset":
        source.abort()
    elif end == "fin":
        source.close()
    return await _read(leg, first)


async def _read(leg: MemoryLeg, first: bytes) -> tuple[list[Buffer] | Ending, Told]:
    from proxyd.metrics import Metrics

    metrics = Metrics()
    journal, told = a_journal()
    record = SessionRecord("lab", "source:1", metrics, journal)
    with trio.fail_after(10):
        return await read_prologue(Intake(ScriptedRewriter(), "lab", metrics), leg, record, first), told


async def test_what_is_let_go_comes_with_what_was_behind_it(autojump_clock: MockClock) -> None:
    assert (await read(b"QEVM/pages"))[0] == [b"QEVM/", b"pages"]
    assert (await read(b"QEVM", b"more", b"/"))[0] == [b"QEVMmore/"]


async def test_a_long_one_is_read_in_steps(autojump_clock: MockClock) -> None:
    long = b"Q" * (3 * PROLOGUE_STEP)
    assert (await read(long + b"/"))[0] == [long + b"/"]


async def test_what_is_against_the_rules_is_told(autojump_clock: MockClock) -> None:
    ending, told = await read(b"QEVM?")
    assert ending == Ending(Outcome.REFUSED, "against the rules")
    assert any("nobody knows it" in str(line) for line in told.lines)
    assert (await read(b"QEVM!"))[0] == Ending(Outcome.BAD_STREAM, "not a stream")


async def test_a_source_that_leaves(autojump_clock: MockClock) -> None:
    ending, _ = await read(b"QEVM", end="fin")
    assert ending == Ending(Outcome.SOURCE_GONE, "the source closed the connection: the stream ended too early")
    ending, _ = await read(b"QEVM", end="reset")
    assert isinstance(ending, Ending)
    assert ending.reason.startswith("the source's connection broke in the prologue")
