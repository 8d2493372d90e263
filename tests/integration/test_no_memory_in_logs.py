"""What a guest has in its registers and devices is its own: none of it is in a log line, whatever is wrong with it.

Every device payload, page and general register is full of one pattern, and every kind of stream that is refused or
broken goes through a rewriter and into the journal in both of its formats. Names that come from the wire cannot forge a
line either.
"""

from __future__ import annotations

import io
import json

import pytest

from formats.errors import FormatError
from proxyd import journal as logs
from proxyd.config import LogConfig, LogFormat, LogLevel
from proxyd.journal import Journal
from proxyd.metrics import Metrics
from proxyd.relay.intake import Intake, ending_of
from proxyd.relay.record import SessionRecord
from proxyd.rewrite.rewriter import RewriteRefused, StreamRewriter
from tests import builders as b
from tests.fuzz.choices import SeedChoices
from tests.fuzz.streams import broken
from tests.fuzz.targets import policies

# A length or an offset that is not what it should be is told: eight bytes, which a stream out of step may take from a
# page. So is what it takes for a name, if it looks like one: 48 characters.
PATTERNS = ("c5" * 9, "\\xc5" * 5, "\u00c5", "\ufffd", "\\ufffd", "\\u00c5", "197, 197", "CANARY" * 8)


def a_stream(canary: bytes) -> bytes:
    secret = canary * 300
    devices = [
        b.Device(b"0000:00:01.0/virtio-net", secret),
        b.cpu(b.SOME_REGISTERS, 0, fill=canary[0]),
        b.Device(b"arm_gicv3", secret),
    ]
    page = b.part(2, b.page(0, (canary * b.PAGE)[: b.PAGE], b"mach-virt.ram") + b.EOS)
    memory = b.start(2, b.mem_size({b"mach-virt.ram": b.PAGE}) + b.EOS) + page + b.end(2, b.EOS)
    return b.stream(memory=memory, parts=devices)


async def told(wire: bytes, number: int, form: LogFormat) -> str:
    """All that the journal has of one stream."""
    out = io.StringIO()
    logs.configure(LogConfig(level=LogLevel.DEBUG, format=form), out, journald=False)
    record = SessionRecord("lab", "192.0.2.1:1", Metrics(), Journal())
    intake = Intake(StreamRewriter(policies()[number]), "lab", Metrics())
    try:
        intake.feed(wire)
        intake.finish()
        record.released(intake)
    except (FormatError, RewriteRefused) as error:
        if isinstance(error, RewriteRefused):
            record.refused(error)
        record.ended(ending_of(error), 0.1, silent=False)
    finally:
        intake.close()
    return out.getvalue()


@pytest.mark.parametrize("canary", [b"\xc5", b"CANARY"])
@pytest.mark.parametrize("form", list(LogFormat))
async def test_no_byte_of_the_guest_is_told(form: LogFormat, canary: bytes) -> None:
    wire = a_stream(canary)
    seen = set()
    for seed in range(1500):
        text = await told(broken(SeedChoices(seed), wire) if seed else wire, seed % len(policies()), form)
        seen.add(text[25:60])
        for pattern in PATTERNS:
            assert pattern not in text, (seed, text)
    assert len(seen) > 20, "they all ended in the same way"


@pytest.mark.parametrize("form", list(LogFormat))
async def test_names_from_the_wire_forge_no_line(form: LogFormat) -> None:
    forged = b"x\n2026-01-01T00:00:00.000Z info    completed: all is well\x1b[2J"
    names = b.MAGIC + b.configuration(forged) + b.OPEN_RETURN_PATH + b.start(2, b.EOS, idstr=forged)
    devices = b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH + b.ram() + b.tail([b.Device(forged, b"1")])[:-1]
    for wire in (names, devices):
        text = await told(wire, 1, form)
        assert text.count("\n") == 1, text
        assert "\x1b" not in text
        if form is LogFormat.JSON:
            json.loads(text)
