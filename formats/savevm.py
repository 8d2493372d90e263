"""The wire's constants, named as QEMU names them. Nothing else.

Sources: ``migration/savevm.h`` (section types), ``migration/savevm.c: enum qemu_vm_cmd`` (commands),
``migration/ram.h`` (RAM flags), ``migration/migration.h: enum mig_rp_message_type`` (return path),
``migration/multifd.h`` and ``migration/qemu-file`` (magics). Identical from QEMU 7.2 to 10.2, except where noted.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

QEMU_VM_FILE_MAGIC: Final = b"QEVM"
QEMU_VM_FILE_VERSION: Final = 3
QEMU_VM_FILE_VERSION_COMPAT: Final = 2
MULTIFD_MAGIC: Final = b"\x11\x22\x33\x44"


class SectionType(IntEnum):
    """First byte of every element after the file header."""

    EOF = 0x00
    START = 0x01
    PART = 0x02
    END = 0x03
    FULL = 0x04
    SUBSECTION = 0x05
    VMDESCRIPTION = 0x06
    CONFIGURATION = 0x07
    COMMAND = 0x08
    FOOTER = 0x7E


class MigCommand(IntEnum):
    """MIG_CMD_*: be16 after QEMU_VM_COMMAND."""

    OPEN_RETURN_PATH = 1
    PING = 2
    POSTCOPY_ADVISE = 3
    POSTCOPY_LISTEN = 4
    POSTCOPY_RUN = 5
    POSTCOPY_RAM_DISCARD = 6
    PACKAGED = 7
    ENABLE_COLO = 8
    POSTCOPY_RESUME = 9
    RECV_BITMAP = 10
    SWITCHOVER_START = 11  # since QEMU 10.0


class RamFlag(IntFlag):
    """RAM_SAVE_FLAG_*: the low bits of a RAM record's be64."""

    FULL = 0x001  # obsolete since 2009
    ZERO = 0x002
    MEM_SIZE = 0x004
    PAGE = 0x008
    EOS = 0x010
    CONTINUE = 0x020
    XBZRLE = 0x040
    HOOK = 0x080  # RDMA only
    COMPRESS_PAGE = 0x100  # removed in QEMU 9.1
    MULTIFD_FLUSH = 0x200  # since QEMU 8.1


class ReturnPathMessage(IntEnum):
    """MIG_RP_MSG_*: be16 type of a message from the destination to the source."""

    SHUT = 1
    PONG = 2
    REQ_PAGES_ID = 3
    REQ_PAGES = 4
    RECV_BITMAP = 5
    RESUME_ACK = 6
    SWITCHOVER_ACK = 7  # since QEMU 8.1
