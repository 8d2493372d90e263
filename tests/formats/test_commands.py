"""Commands in the stream: their numbers, their lengths, and those that proxyd does not carry."""

from __future__ import annotations

import pytest

from formats import events
from formats.commands import read_command
from formats.cursor import Cursor
from formats.errors import FormatError, SchemaMismatch, UnsupportedStream
from formats.savevm import MigCommand
from tests import builders as b


def read(wire: bytes) -> events.Command:
    cursor = Cursor()
    cursor.load(wire)
    steps = read_command(cursor)
    try:
        next(steps)
    except StopIteration as stop:
        assert not cursor.available
        found: events.Command = stop.value
        return found
    raise AssertionError("the command is not whole")


@pytest.mark.parametrize(
    ("wire", "command", "data"),
    [
        (b.OPEN_RETURN_PATH, MigCommand.OPEN_RETURN_PATH, b""),
        (b.PING, MigCommand.PING, b.be32(1)),
        (b.POSTCOPY_ADVISE, MigCommand.POSTCOPY_ADVISE, b.be64(4096) * 2),
        (b"\x08\x00\x03\x00\x00", MigCommand.POSTCOPY_ADVISE, b""),
        (b"\x08\x00\x06\x00\x03abc", MigCommand.POSTCOPY_RAM_DISCARD, b"abc"),
        (b"\x08\x00\x07\x00\x04\x00\x00\x00\x09", MigCommand.PACKAGED, b.be32(9)),
        (b.SWITCHOVER_START, MigCommand.SWITCHOVER_START, b""),
    ],
)
def test_a_command(wire: bytes, command: MigCommand, data: bytes) -> None:
    assert read(wire) == events.Command(0, wire, command, data)


@pytest.mark.parametrize(
    ("wire", "kind", "message"),
    [
        (b"\x08\x00\x0c\x00\x00", SchemaMismatch, "at 0x0: command: number 1 to 11 expected, found 12"),
        (b"\x08\x00\x02\x00\x05", SchemaMismatch, "at 0x0: command PING: length 4 expected, found 5"),
        (b"\x08\x00\x03\x00\x08", SchemaMismatch, "at 0x0: command POSTCOPY_ADVISE: length 0 or 16 expected, found 8"),
        (
            b"\x08\x00\x05\x00\x00",
            SchemaMismatch,
            "at 0x0: command POSTCOPY_RUN: expected in a postcopy package, found outside",
        ),
        (
            b"\x08\x00\x08\x00\x00",
            UnsupportedStream,
            "at 0x0: COLO is not supported: the stream would never end (migrate_set_capability x-colo off)",
        ),
        (
            b"\x08\x00\x09\x00\x00",
            UnsupportedStream,
            "at 0x0: a stream that recovers a postcopy has no beginning of its own",
        ),
    ],
)
def test_one_clear_error(wire: bytes, kind: type[FormatError], message: str) -> None:
    with pytest.raises(kind) as caught:
        read(wire)
    assert str(caught.value) == message
