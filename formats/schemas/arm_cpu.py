"""The arm ``cpu`` section, version 22: ``target/arm/machine.c: vmstate_arm_cpu``.

The main field list is byte-identical from QEMU 7.2 to early 11.0. Only the cpreg list is taken apart; the rest is kept
as it came, so that what is not changed is re-emitted from the original bytes.

    offset       size  field
    0            568   env.regs ... sp_el (general and banked registers)
    568          4     cpreg_vmstate_array_len, be32 = N        ("int32 le": less or equal, not little endian)
    572          8N    cpreg_vmstate_indexes, be64 each, KVM register ids, strictly ascending
    572 + 8N     8N    cpreg_vmstate_values, be64 each
    572 + 16N    65    exclusive_addr ... power_state
    637 + 16N          subsections
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import construct as c

from formats.arm64.cpreg_list import CpregList
from formats.errors import LimitExceeded, SchemaMismatch
from formats.framing import U64Array
from formats.savevm import SectionType
from formats.vmdesc import Device

IDSTR: Final = "cpu"
VERSION: Final = 22

# The longest list measured has 273 registers; with nested virtualisation it grows to about 400. Every entry is
# compared with the destination's, so a list far beyond any kernel's is refused rather than worked through.
MAX_CPREGS: Final = 2048

ARRAY_LEN_FIELD: Final = "cpreg_vmstate_array_len"
ARRAY_FIELDS: Final = ("cpreg_vmstate_indexes", "cpreg_vmstate_values")
ARRAY_LEN_OFFSET: Final = 568

_SCHEMA: Final = c.Struct(
    "before" / c.Bytes(ARRAY_LEN_OFFSET),
    "cpreg_vmstate_array_len" / c.Int32sb,
    "cpreg_vmstate_indexes" / U64Array(lambda this: this.cpreg_vmstate_array_len),
    "cpreg_vmstate_values" / U64Array(lambda this: this.cpreg_vmstate_array_len),
    "exclusive" / c.Bytes(24),
    "unused" / c.Bytes(8),
    "exception" / c.Bytes(16),
    "gt_timer" / c.Bytes(16),
    "power_state" / c.Bytes(1),
    "subsections" / c.GreedyBytes,
)


# Bytes of the fields of subsections, by name and version: those seen in streams of QEMU 7.2, 10.0 and 11.1 (KVM and
# TCG), with the sizes that their vmdescs say. Nested or not makes no difference for where they end.
SUBSECTIONS: Final = {
    (b"cpu/vfp", 3): 576,
    (b"cpu/sve", 1): 4128,
    (b"cpu/irq-line-state", 1): 4,
    (b"cpu/wfxt-timer", 1): 8,
    (b"cpu/fpmr", 1): 8,
}

# exclusive_addr to power_state.
_AFTER_ARRAYS_BYTES: Final = 24 + 8 + 16 + 16 + 1


@dataclass(frozen=True, slots=True)
class ArmCpu:
    """One vCPU's state: its cpreg list, and the bytes on either side of it."""

    before: bytes
    cpregs: CpregList
    after: bytes

    def with_cpregs(self, cpregs: CpregList) -> ArmCpu:
        """The same vCPU with another list."""
        return replace(self, cpregs=cpregs)

    def build(self) -> bytes:
        """The section's payload."""
        n = len(self.cpregs)
        return b"".join(
            (
                self.before,
                c.Int32sb.build(n),
                U64Array(lambda _: n).build(self.cpregs.ids),
                U64Array(lambda _: n).build(self.cpregs.values_in_order),
                self.after,
            )
        )


def is_arm_cpu(device: Device) -> bool:
    """Whether the vmdesc entry is an arm vCPU. x86 calls its vCPU section "cpu", too, with other fields."""
    return device.name == IDSTR and any(field.name == ARRAY_LEN_FIELD for field in device.fields)


def parse_arm_cpu(payload: bytes | memoryview, device: Device, offset: int, max_cpregs: int = MAX_CPREGS) -> ArmCpu:
    """Take a ``cpu`` payload apart, with the vmdesc entry as the proof of the layout.

    ``offset`` is the payload's place in the stream. Raises :class:`SchemaMismatch` where bytes, schema and vmdesc
    disagree or the list is out of order, :class:`LimitExceeded` where the list is longer than ``max_cpregs``.
    """
    where = f"{device.name}/{device.instance_id}"
    if device.version != VERSION:
        raise SchemaMismatch(f"{where}: version {VERSION} expected, found {device.version}", offset)
    described = device.field_offset(ARRAY_LEN_FIELD)
    if described != ARRAY_LEN_OFFSET:
        raise SchemaMismatch(
            f"{where}: {ARRAY_LEN_FIELD} expected at {ARRAY_LEN_OFFSET}, the vmdesc says {described}", offset
        )
    data = bytes(payload)
    n = int.from_bytes(data[ARRAY_LEN_OFFSET : ARRAY_LEN_OFFSET + 4], "big", signed=True)
    if n > max_cpregs:
        raise LimitExceeded(f"{where}: cpreg list of at most {max_cpregs} registers expected, found {n}", offset)
    lengths = {field.name: (field.array_len or 1) for field in device.fields if field.name in ARRAY_FIELDS}
    for name in ARRAY_FIELDS:
        if lengths.get(name, 0) != n:
            raise SchemaMismatch(
                f"{where}: {ARRAY_LEN_FIELD} says {n}, the vmdesc gives {name} {lengths.get(name, 0)} elements",
                offset,
            )
    return _parse(data, where, offset)


def fields_bytes(head: bytes) -> int:
    """Bytes of the main field list, by the first 572 of them; subsections may follow.

    Raises :class:`SchemaMismatch` where there are fewer, or the list's length is negative.
    """
    count = int.from_bytes(head[ARRAY_LEN_OFFSET : ARRAY_LEN_OFFSET + 4], "big", signed=True)
    if len(head) < ARRAY_LEN_OFFSET + 4 or count < 0:
        raise SchemaMismatch(f"{IDSTR}: a cpreg list's length expected at {ARRAY_LEN_OFFSET}, found none")
    return ARRAY_LEN_OFFSET + 4 + 16 * count + _AFTER_ARRAYS_BYTES


def known_bytes(data: bytes, start: int) -> tuple[int, bool]:
    """Bytes of the payload that begins at ``start``, as far as it is known, and whether that is all of it.

    It is not where a subsection follows that is not among :data:`SUBSECTIONS`. Raises :class:`SchemaMismatch` where the
    main field list does not fit.
    """
    end = start + fields_bytes(data[start : start + ARRAY_LEN_OFFSET + 4])
    while data[end : end + 1] == bytes([SectionType.SUBSECTION]):
        name = data[end + 2 : end + 2 + data[end + 1]] if end + 1 < len(data) else b""
        version = int.from_bytes(data[end + 2 + len(name) : end + 6 + len(name)], "big")
        size = SUBSECTIONS.get((name, version))
        if size is None:
            return end - start, False
        end += 1 + 1 + len(name) + 4 + size
    return end - start, True


def parse_undescribed(payload: bytes | memoryview, where: str, offset: int, max_cpregs: int = MAX_CPREGS) -> ArmCpu:
    """As :func:`parse_arm_cpu`, for version 22 without a vmdesc: the layout itself is all the proof there is."""
    data = bytes(payload)
    size = fields_bytes(data)
    count = (size - ARRAY_LEN_OFFSET - 4 - _AFTER_ARRAYS_BYTES) // 16
    if count > max_cpregs:
        raise LimitExceeded(f"{where}: cpreg list of at most {max_cpregs} registers expected, found {count}", offset)
    if size > len(data) or (size < len(data) and data[size] != SectionType.SUBSECTION):
        raise SchemaMismatch(f"{where}: expected the layout of vmstate_arm_cpu, found other bytes behind it", offset)
    return _parse(data, where, offset)


def _parse(data: bytes, where: str, offset: int) -> ArmCpu:
    try:
        parsed = _SCHEMA.parse(data)
    except c.ConstructError as error:
        raise SchemaMismatch(f"{where}: expected the layout of vmstate_arm_cpu, found: {error}", offset) from error
    after = data[ARRAY_LEN_OFFSET + 4 + 16 * parsed.cpreg_vmstate_array_len :]
    try:
        cpregs = CpregList.from_arrays(parsed.cpreg_vmstate_indexes, parsed.cpreg_vmstate_values)
    except SchemaMismatch as error:
        raise SchemaMismatch(f"{where}: {error.message}", offset) from error
    return ArmCpu(parsed.before, cpregs, after)
