"""Registers for people: names first, ids beside them, ID registers field by field, vCPUs that agree on one line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from formats.arm64.id_fields import fields_of
from formats.arm64.register_id import RegisterKind, encoding_of, kind_of, name_of

if TYPE_CHECKING:
    from proxyd.rewrite.plan import VcpuRegisters


def is_identity(register: int) -> bool:
    """Whether the register tells a guest what it runs on, and so has to agree with the host: ID registers, MIDR_EL1 and
    its like, cache geometry, firmware. What a guest writes itself is none of them."""
    kind = kind_of(register)
    if kind is RegisterKind.SYSREG:
        return encoding_of(register).crn == 0 and name_of(register) != "CSSELR_EL1"
    return kind in {RegisterKind.DEMUX, RegisterKind.FIRMWARE, RegisterKind.FIRMWARE_BITMAP}


def fields_text(register: int, value: int) -> str:
    """The known fields that are not 0, most significant first."""
    named = ((field.name, field.get(value)) for field in reversed(fields_of(register)))
    return ", ".join(f"{name} {number}" for name, number in named if number)


def register_document(register: int, value: int) -> dict[str, Any]:
    """One register for ``--json``: numbers as hex text, because JSON's readers round 64-bit numbers."""
    document: dict[str, Any] = {"name": name_of(register), "id": f"{register:#x}", "value": f"{value:#x}"}
    if fields_of(register):
        document["fields"] = {field.name: field.get(value) for field in fields_of(register)}
    return document


def grouped(vcpus: Iterable[VcpuRegisters]) -> list[tuple[int, int, tuple[int, ...]]]:
    """(register, value, vCPUs that have it so), ascending by register, then by vCPU."""
    rows: dict[tuple[int, int], list[int]] = {}
    for vcpu in vcpus:
        for register, value in vcpu.registers.items():
            rows.setdefault((register, value), []).append(vcpu.vcpu)
    found = [(register, value, tuple(who)) for (register, value), who in rows.items()]
    return sorted(found, key=lambda row: (row[0], row[2]))


def ranges(numbers: Iterable[int]) -> str:
    """``0-3,6`` for 0 1 2 3 6."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
