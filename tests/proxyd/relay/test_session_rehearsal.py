"""A session whose route rehearses: what is asked when, and what becomes of the guest. In memory, on a mock clock."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.rehearser import RehearsalUnavailable
from proxyd.rewrite.freshness import StaleDescription
from proxyd.rewrite.rehearsal import Finding, FindingKind, Rehearsal
from proxyd.routes import RehearsalService
from tests.proxyd.relay.stage import PONG_1, SHUT_0, SHUT_1, TCR2_EL1, a_route, reset_seen, staged

REHEARSES = a_route(rehearsal=RehearsalService("/run/proxyd/rehearse.sock", 10))
CHANGED = Rehearsal((Finding(0, TCR2_EL1, FindingKind.CHANGED, 5, 4),), ("psci",), "7.3.4", 1, 0.5)


async def test_device_state_leaves_when_the_rehearsal_has_passed(autojump_clock: MockClock) -> None:
    async with staged(REHEARSES) as stage:
        stage.rehearser.warnings = ("the description is of another kernel",)
        stage.rehearser.may_answer = trio.Event()
        await stage.source.say(b"QEVM/ram[rehearse]")
        destination = await stage.destination()
        assert await destination.receive_exactly(8) == b"QEVM/ram"
        await stage.rehearser.asked.wait()
        assert stage.sample("proxyd_active_sessions", phase="rehearsing") == 1
        await destination.say(PONG_1)  # the return path is not held up
        assert await stage.source.receive_exactly(len(PONG_1)) == PONG_1
        assert not stage.session.committed
        await trio.sleep(100)  # only the rehearser keeps the time
        stage.rehearser.may_answer.set()
        assert await destination.receive_exactly(10) == b"<rehearse>"
        assert stage.session.committed
        await destination.say(SHUT_0)
        await destination.send_eof()
        await stage.source.send_eof()
        assert await stage.outcome() == "completed"
        assert stage.rehearser.closed
    assert "the description is of another kernel" in stage.told.texts()
    assert "rehearsed: loads faithfully on Linux 7.3.4" in stage.told.texts()
    (released,) = [fields for _, text, fields in stage.told.lines if text == "device state released"]
    assert released["rehearsal_s"] == pytest.approx(100)
    assert released["hold_s"] == pytest.approx(100)
    assert stage.sample("proxyd_rehearsals_total", result="passed") == 1
    assert stage.sample("proxyd_rehearsal_seconds_sum") == pytest.approx(100)


async def test_a_finding_keeps_the_guest_on_its_source(autojump_clock: MockClock) -> None:
    async with staged(REHEARSES) as stage:
        stage.rehearser.says = CHANGED
        await stage.source.say(b"QEVM/[rehearse]")
        destination = await stage.destination()
        assert await reset_seen(stage.source) == b""
        assert await reset_seen(destination) == b"QEVM/"
        assert await stage.outcome() == "refused"
        assert stage.ending is not None
        assert "TCR2_EL1" in stage.ending.reason
    assert stage.sample("proxyd_rehearsals_total", result="refused") == 1
    assert stage.sample("proxyd_registers_total", action="refuse", verdict="lossy") == 1
    assert any(text.startswith("rehearsed: vcpu 0: TCR2_EL1") for text in stage.told.texts())


async def test_no_answer_keeps_the_guest_on_its_source(autojump_clock: MockClock) -> None:
    async with staged(REHEARSES) as stage:
        stage.rehearser.says = RehearsalUnavailable("nobody knows")
        await stage.source.say(b"QEVM/[rehearse]")
        destination = await stage.destination()
        assert await reset_seen(destination) == b"QEVM/"
        assert await stage.outcome() == "not_rehearsed"
        assert stage.ending == Ending(Outcome.NOT_REHEARSED, "nobody knows")
    assert stage.sample("proxyd_rehearsals_total", result="unavailable") == 1
    assert stage.rehearser.closed


@pytest.mark.parametrize("how", ["reset", "shut"])
async def test_a_destination_that_fails_meanwhile(how: str, autojump_clock: MockClock) -> None:
    async with staged(REHEARSES) as stage:
        stage.rehearser.may_answer = trio.Event()
        await stage.source.say(b"QEVM/[rehearse]")
        destination = await stage.destination()
        await stage.rehearser.asked.wait()
        if how == "shut":
            await destination.say(SHUT_1)
            await destination.send_eof()
        else:
            destination.abort()
        assert await stage.outcome() in {"destination_gone", "destination_failed"}
        assert not stage.session.committed


async def test_an_abandoned_session_does_not_wait_for_its_rehearsal(autojump_clock: MockClock) -> None:
    async with staged(REHEARSES) as stage:
        stage.rehearser.may_answer = trio.Event()
        await stage.source.say(b"QEVM/[rehearse]")
        await stage.destination()
        await stage.rehearser.asked.wait()
        assert stage.session.abandon(Ending(Outcome.DRAINED, "enough"))
        assert await stage.outcome() == "drained"
        assert stage.rehearser.closed


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(RehearsalUnavailable("no service"), "not_rehearsed"), (StaleDescription("another kernel"), "refused")],
)
async def test_what_cannot_be_rehearsed_never_reaches_the_destination(
    error: Exception, outcome: str, autojump_clock: MockClock
) -> None:
    async with staged(REHEARSES) as stage:
        stage.rehearser.cannot = error
        await stage.source.say(b"QEVM/")
        assert await reset_seen(stage.source) == b""
        assert await stage.outcome() == outcome
        assert stage.ending == Ending(Outcome(outcome), str(error))
        assert not stage.dialled.is_set()
        assert stage.rehearser.closed


async def test_another_architecture_is_not_rehearsed(autojump_clock: MockClock) -> None:
    async with staged(REHEARSES) as stage:
        stage.rehearser.cannot = RehearsalUnavailable("no service")
        await stage.source.say(b"QEVM~")
        assert await (await stage.destination()).receive_exactly(5) == b"QEVM~"
