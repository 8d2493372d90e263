"""What kind of channel a connection is: the first four bytes tell.

QEMU's destination does the same by peeking (``migration/migration.c: migration_ioc_process_incoming``). A postcopy
preempt channel has no magic of its own.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from formats.savevm import MULTIFD_MAGIC, QEMU_VM_FILE_MAGIC

CLASSIFY_BYTES: Final = 4

_TLS_HANDSHAKE: Final = b"\x16\x03"


class ChannelKind(StrEnum):
    """Kinds of channel that a source opens, and what else turns up on a port."""

    MAIN = "main"
    MULTIFD = "multifd"
    TLS = "tls"
    UNKNOWN = "unknown"


def classify(first: bytes) -> ChannelKind:
    """The channel's kind, from its first :data:`CLASSIFY_BYTES` bytes."""
    if first[:4] == QEMU_VM_FILE_MAGIC:
        return ChannelKind.MAIN
    if first[:4] == MULTIFD_MAGIC:
        return ChannelKind.MULTIFD
    if first[:2] == _TLS_HANDSHAKE:
        return ChannelKind.TLS
    return ChannelKind.UNKNOWN
