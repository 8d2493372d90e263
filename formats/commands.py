"""QEMU_VM_COMMAND elements (``savevm.c: qemu_savevm_command_send, mig_cmd_args``), read from a cursor.

    08 be16 command be16 length data[length]

They have no footer.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from formats import events
from formats.cursor import Cursor
from formats.errors import SchemaMismatch, UnsupportedStream
from formats.framing import COMMAND_HEADER, COMMAND_HEADER_BYTES
from formats.savevm import MigCommand

# Lengths that mig_cmd_args allows, before the device state; None where they vary.
_LENGTHS: Final[dict[MigCommand, tuple[int, ...] | None]] = {
    MigCommand.OPEN_RETURN_PATH: (0,),
    MigCommand.PING: (4,),
    # Host page sizes in use and the target's page size; nothing where only dirty bitmaps may come after the switch.
    MigCommand.POSTCOPY_ADVISE: (0, 16),
    MigCommand.POSTCOPY_RAM_DISCARD: None,
    MigCommand.PACKAGED: (4,),
    MigCommand.SWITCHOVER_START: (0,),
}

_UNSUPPORTED: Final = {
    MigCommand.ENABLE_COLO: "COLO is not supported: the stream would never end (migrate_set_capability x-colo off)",
    MigCommand.POSTCOPY_RESUME: "a stream that recovers a postcopy has no beginning of its own",
    MigCommand.RECV_BITMAP: "a stream that recovers a postcopy has no beginning of its own",
}


def read_command(cursor: Cursor) -> Generator[None, None, events.Command]:
    """Take the command, whose type byte is the next one.

    Raises :class:`SchemaMismatch` on a number or a length that QEMU has not, :class:`UnsupportedStream` on a command of
    a mode that proxyd does not carry.
    """
    at = cursor.begin()
    header = COMMAND_HEADER.parse((yield from cursor.read(COMMAND_HEADER_BYTES)))
    try:
        command = MigCommand(header.command)
    except ValueError:
        raise SchemaMismatch(f"command: number 1 to 11 expected, found {header.command}", at) from None
    if command in _UNSUPPORTED:
        raise UnsupportedStream(_UNSUPPORTED[command], at)
    if command not in _LENGTHS:
        raise SchemaMismatch(f"command {command.name}: expected in a postcopy package, found outside", at)
    lengths = _LENGTHS[command]
    if lengths is not None and header.length not in lengths:
        expected = " or ".join(map(str, lengths))
        raise SchemaMismatch(f"command {command.name}: length {expected} expected, found {header.length}", at)
    data = yield from cursor.read(header.length)
    return events.Command(at, cursor.end(), command, data)
