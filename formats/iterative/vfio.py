"""Walking the payload of a ``vfio`` section, version 1: the state of a device that is passed through.

The section's name has the device's path before it (``0000:00:02.0/vfio``). A payload is marks and data, up to the mark
that ends it; all marks are of the pattern 0xffffffffef1000NN.

    DEV_SETUP_STATE   -                          (first section)
    DEV_DATA_STATE    be64 length  data[length]
    INIT_DATA_SENT    -                          (since QEMU 8.1)
    END_OF_STATE      -

DEV_CONFIG_STATE is followed by the PCI device's own state, which has no length: QEMU sends it with the other device
sections, behind RAM (where the vmdesc tells its size), and it is not taken here.

Mirrors ``hw/vfio/migration.c: vfio_save_setup, vfio_save_iterate, vfio_save_complete_precopy, vfio_load_state`` (QEMU
8.1 to 11.0). Written from the source: no hardware for it was at hand.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from formats.cursor import Cursor, Steps
from formats.errors import SchemaMismatch, UnsupportedStream

IDSTR: Final = "vfio"
VERSION: Final = 1


class Mark(IntEnum):
    """VFIO_MIG_FLAG_*."""

    END_OF_STATE = 0xFFFFFFFFEF100001
    DEV_CONFIG_STATE = 0xFFFFFFFFEF100002
    DEV_SETUP_STATE = 0xFFFFFFFFEF100003
    DEV_DATA_STATE = 0xFFFFFFFFEF100004
    INIT_DATA_SENT = 0xFFFFFFFFEF100005


def walk(cursor: Cursor, _page_size: int) -> Steps:
    """Take one section's payload up to and including its END_OF_STATE.

    Raises :class:`SchemaMismatch` on a mark that QEMU would not write, :class:`UnsupportedStream` on a configuration
    in the middle of memory.
    """
    while True:
        at = cursor.offset
        mark = yield from cursor.be64()
        if mark == Mark.END_OF_STATE:
            return
        if mark == Mark.DEV_DATA_STATE:
            yield from cursor.skip((yield from cursor.be64()))
        elif mark == Mark.DEV_CONFIG_STATE:
            raise UnsupportedStream("VFIO: the device's configuration expected behind RAM, found before its end", at)
        elif mark not in (Mark.DEV_SETUP_STATE, Mark.INIT_DATA_SENT):
            raise SchemaMismatch(f"VFIO: a mark expected, found {mark:#x}", at)
