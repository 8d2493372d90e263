"""Allowances and what is said when they are used up; as a conversation in ``test_rewrite_relay.py``."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from proxyd.metrics import Metrics
from proxyd.relay.intake import Intake
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.patience import idle_allowance, idle_expired, main_missing
from proxyd.routes import SessionTimes
from tests.proxyd.relay.stage import ScriptedRewriter

TIMES = SessionTimes(header_s=30, idle_s=300, hold_idle_s=10, hold_s=60, connect_s=10)


def an_intake(said: bytes) -> Intake:
    intake = Intake(ScriptedRewriter(), "lab", Metrics())
    intake.feed(said)
    return intake


async def test_memory_may_pause() -> None:
    intake = an_intake(b"QEVM/ram")
    assert idle_allowance(TIMES, intake) == 300
    reason = "nothing moved for 300 s (limits.idle_time_s) while waiting for the next act"
    assert idle_expired(TIMES, intake) == Ending(Outcome.LIMIT, reason)


@pytest.mark.parametrize(
    ("said", "outcome", "more"),
    [(b"[open", Outcome.LIMIT, ""), (b"[sta", Outcome.BAD_STREAM, ": the stream ended too early")],
)
async def test_device_state_may_pause_for_less(said: bytes, outcome: Outcome, more: str) -> None:
    intake = an_intake(b"QEVM/ram" + said)
    assert idle_allowance(TIMES, intake) == pytest.approx(10)
    reason = f"nothing moved for 10 s (limits.hold_idle_time_s) with {len(said)} bytes of device state held{more}"
    assert idle_expired(TIMES, intake) == Ending(outcome, reason)


async def test_all_of_it_has_its_time_too(autojump_clock: MockClock) -> None:
    intake = an_intake(b"QEVM/ram[open")
    await trio.sleep(55)
    assert idle_allowance(TIMES, intake) == pytest.approx(5)
    await trio.sleep(10)
    assert idle_allowance(TIMES, intake) == 0
    reason = "the whole device state expected within 60 s (limits.hold_time_s), found 5 bytes of it"
    assert idle_expired(TIMES, intake) == Ending(Outcome.LIMIT, reason)


def test_a_channel_waits_for_its_main_one() -> None:
    reason = (
        "a multifd channel came, and no main channel (5145564d, QEVM) from 192.0.2.1 within 30 s (limits.header_time_s)"
    )
    assert main_missing(TIMES, "192.0.2.1") == Ending(Outcome.LIMIT, reason)
