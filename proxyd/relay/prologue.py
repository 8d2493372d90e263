"""A main channel until its rewriter lets the first bytes go: until then nobody but the source knows of it."""

from __future__ import annotations

from typing import Final

import trio

from formats.errors import FormatError
from proxyd.relay.channel import Leg
from proxyd.relay.intake import Buffer, Intake, ending_of
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.record import SessionRecord
from proxyd.rewrite.refusal import RewriteRefused

# Bytes of a prologue that are read at a time: some 1.5 ms of commands, and anybody may send them.
PROLOGUE_STEP: Final = 1024


async def read_prologue(intake: Intake, source: Leg, record: SessionRecord, first: bytes) -> list[Buffer] | Ending:
    """Feed the rewriter, beginning with ``first``, until it lets bytes go: these, or why there will be none."""
    chunk = first
    while True:
        try:
            buffers = intake.feed(chunk[:PROLOGUE_STEP]) if chunk else intake.finish()
            chunk = chunk[PROLOGUE_STEP:]
            if buffers:
                return buffers + intake.feed(chunk) if chunk else buffers
        except (FormatError, RewriteRefused) as error:
            if isinstance(error, RewriteRefused):
                record.refused(error)
            elif not chunk:
                return Ending(Outcome.SOURCE_GONE, f"the source closed the connection: {error}")
            return ending_of(error)
        if chunk:
            await trio.lowlevel.checkpoint()
            continue
        try:
            chunk = await source.receive_some()
        except trio.BrokenResourceError as error:
            return Ending(Outcome.SOURCE_GONE, f"the source's connection broke in the prologue: {error.__cause__}")
