"""What kind of channel a connection is: the first four bytes tell.

QEMU's destination does the same by peeking (``migration/migration.c: migration_ioc_process_incoming``). A postcopy
preempt channel has no magic of its own.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from formats.errors import SchemaMismatch
from formats.savevm import MULTIFD_MAGIC, QEMU_VM_FILE_MAGIC

CLASSIFY_BYTES: Final = 4

# MultiFDInit_t (migration/multifd.h): be32 magic, be32 version, uuid[16], u8 id, and 39 bytes without a meaning.
MULTIFD_INIT_BYTES: Final = 64
MULTIFD_VERSION: Final = 1
_MULTIFD_INIT: Final = struct.Struct(">4sI16sB39x")

# QEMU_VM_COMMAND, MIG_CMD_RECV_BITMAP, and the upper byte of its length: what a source says first on the main channel
# with which it recovers a postcopy migration, for each block of RAM (migration/ram.c: ram_dirty_bitmap_sync_all); no
# file header comes before it. Seen with 7.2, 10.0 and 11.1.
_RECOVERY: Final = b"\x08\x00\x0a\x00"

_TLS_HANDSHAKE: Final = b"\x16\x03"


# Machine types up to this one connect the preempt channel when the migration is set up, later ones when it switches to
# postcopy (hw/core/machine.c: hw_compat_7_2, x-preempt-pre-7-2; migration.c: postcopy_start).
_PREEMPT_AT_SETUP: Final = (7, 2)
_MACHINE_VERSION: Final = re.compile(r"-(\d+)\.(\d+)$")


class ChannelKind(StrEnum):
    """Kinds of channel that a source opens, and what else turns up on a port."""

    MAIN = "main"
    MULTIFD = "multifd"
    PREEMPT = "preempt"  # has no magic: classify() never says so
    RECOVERY = "recovery"
    TLS = "tls"
    UNKNOWN = "unknown"


def classify(first: bytes) -> ChannelKind:
    """The channel's kind, from its first :data:`CLASSIFY_BYTES` bytes."""
    if first[:4] == QEMU_VM_FILE_MAGIC:
        return ChannelKind.MAIN
    if first[:4] == MULTIFD_MAGIC:
        return ChannelKind.MULTIFD
    if first[:4] == _RECOVERY:
        return ChannelKind.RECOVERY
    if first[:2] == _TLS_HANDSHAKE:
        return ChannelKind.TLS
    return ChannelKind.UNKNOWN


def preempts_from_setup(machine: str | None) -> bool:
    """Whether a source with this machine type connects its preempt channel at once, or may: an unversioned type."""
    found = _MACHINE_VERSION.search(machine or "")
    return found is None or (int(found[1]), int(found[2])) <= _PREEMPT_AT_SETUP


@dataclass(frozen=True, slots=True)
class MultifdInit:
    """What a multifd channel says of itself: the source's uuid (zero where QEMU was given none) and its own number."""

    uuid: bytes
    number: int

    @classmethod
    def parse(cls, first: bytes) -> MultifdInit:
        """Read the first :data:`MULTIFD_INIT_BYTES` bytes, as ``migration/multifd.c: multifd_recv_initial_packet``.

        :raises SchemaMismatch: another magic or version.
        """
        magic, version, uuid, number = _MULTIFD_INIT.unpack_from(first)
        check_multifd("channel", magic, version, 0)
        return cls(uuid, number)


def check_multifd(what: str, magic: bytes, version: int, offset: int) -> None:
    """What a multifd channel, and each of its packets, begins with. Raises :class:`SchemaMismatch` on any other."""
    if magic != MULTIFD_MAGIC or version != MULTIFD_VERSION:
        raise SchemaMismatch(
            f"multifd {what}: magic {MULTIFD_MAGIC.hex()} and version {MULTIFD_VERSION} expected, "
            f"found {magic.hex()} and {version}",
            offset,
        )
