"""How long a migration may do nothing, or too little, before its commit point; and how it has ended when it did."""

from __future__ import annotations

from typing import Final

from formats.errors import FormatError
from proxyd.relay.intake import Intake
from proxyd.relay.outcome import Ending, Outcome
from proxyd.rewrite.rewriter import Phase
from proxyd.routes import SessionTimes

# The guard moves its deadline when it is a hundredth wrong.
_NEARLY: Final = 0.98


def idle_allowance(times: SessionTimes, intake: Intake) -> float:
    """Seconds that may pass without a byte; while device state is held, no more than what is left for all of it."""
    if intake.rewriter.phase is not Phase.HOLDING:
        return times.idle_s
    return max(0.0, min(times.hold_idle_s, times.hold_s - intake.held_for))


def idle_expired(times: SessionTimes, intake: Intake) -> Ending:
    """What became of a migration whose allowance is used up."""
    rewriter = intake.rewriter
    if rewriter.phase is not Phase.HOLDING:
        seconds = f"nothing moved for {times.idle_s:g} s (limits.idle_time_s)"
        return Ending(Outcome.LIMIT, f"{seconds} while waiting for {rewriter.waiting_for}")
    if intake.held_for >= _NEARLY * times.hold_s:
        whole = f"the whole device state expected within {times.hold_s:g} s (limits.hold_time_s)"
        return Ending(Outcome.LIMIT, f"{whole}, found {rewriter.held_bytes} bytes of it")
    seconds = f"nothing moved for {times.hold_idle_s:g} s (limits.hold_idle_time_s)"
    held = f"{seconds} with {rewriter.held_bytes} bytes of device state held"
    try:
        rewriter.finish()
    except FormatError as error:
        # Nothing more will come: what is there is the stream, and this is what is wrong with it.
        return Ending(Outcome.BAD_STREAM, f"{held}: {error}")
    return Ending(Outcome.LIMIT, held)


def main_missing(times: SessionTimes, origin: str) -> Ending:
    """What became of a multifd channel whose main channel has not come."""
    reason = (
        f"a multifd channel came, and no main channel (5145564d, QEVM) from {origin} within "
        f"{times.header_s:g} s (limits.header_time_s)"
    )
    return Ending(Outcome.LIMIT, reason)
