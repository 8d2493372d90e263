"""The wire's constants, against the numbers in QEMU's headers."""

from __future__ import annotations

from formats.savevm import MigCommand, RamFlag, ReturnPathMessage, SectionType


def test_numbers() -> None:
    # migration/savevm.h
    assert [int(kind) for kind in SectionType] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0x7E]
    # savevm.c: enum qemu_vm_cmd has no holes up to SWITCHOVER_START
    assert [int(command) for command in MigCommand] == list(range(1, 12))
    # migration.h: enum mig_rp_message_type
    assert [int(message) for message in ReturnPathMessage] == list(range(1, 8))
    # ram.h: one bit each
    assert sum(RamFlag) == 0x3FF
