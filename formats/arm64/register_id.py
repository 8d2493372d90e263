"""KVM register ids and their names: bit arithmetic, and one data file of names.

An id is what KVM_GET_REG_LIST returns and what the stream's cpreg list holds (``include/uapi/linux/kvm.h``,
``arch/arm64/include/uapi/asm/kvm.h``):

    63      56 55    52        31      16 15                0
    +---------+--------+-- 0 --+---------+-------------------+
    | 0x60    | size   |       | kind    | number            |        0x60 = arm64, 0x40 = arm (TCG's AArch32 registers)
    +---------+--------+-------+---------+-------------------+        size: 2 = u32, 3 = u64 ... (bytes are 1 << size)

    kind 0x13, sysreg            number = op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
    kind 0x11, demux             number = CSSELR value of a CCSIDR
    kind 0x14, firmware          number = index
    kind 0x16, firmware bitmap   number = index

``registers.csv`` holds names and encodings; ids are derived from them. Two names do not belong to the register that
their encoding says: TIMER_CVAL has CNTVCT_EL0's encoding (...df02) and TIMER_CNT has CNTV_CVAL_EL0's (...df1a). KVM
swapped them when the ABI was made, and they are swapped for ever. Never "correct" them.
"""

from __future__ import annotations

import csv
import difflib
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Final

_ARM64: Final = 0x60
_ARM: Final = 0x40  # QEMU's TCG lists AArch32 registers by the ids of 32-bit KVM

_SIZE_U32: Final = 0x0020_0000_0000_0000
_SIZE_U64: Final = 0x0030_0000_0000_0000
_ARM64_BASE: Final = _ARM64 << 56

MAX_ID: Final = (1 << 64) - 1


class RegisterKind(StrEnum):
    """KVM_REG_ARM_COPROC: what the rest of an id means."""

    SYSREG = "sysreg"
    DEMUX = "demux"
    FIRMWARE = "firmware"
    FIRMWARE_BITMAP = "firmware-bitmap"
    CORE = "core"
    SVE = "sve"
    AARCH32 = "aarch32"
    OTHER = "other"


_KINDS: Final = {
    0x10: RegisterKind.CORE,
    0x11: RegisterKind.DEMUX,
    0x13: RegisterKind.SYSREG,
    0x14: RegisterKind.FIRMWARE,
    0x15: RegisterKind.SVE,
    0x16: RegisterKind.FIRMWARE_BITMAP,
}
_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}


class UnknownRegister(ValueError):
    """No register of that name is known. The message names close ones."""


@dataclass(frozen=True, slots=True)
class SysregEncoding:
    """The operands of MRS and MSR."""

    op0: int
    op1: int
    crn: int
    crm: int
    op2: int

    def __str__(self) -> str:
        """As QEMU prints an unknown register (target/arm/kvm.c: kvm_print_register_name)."""
        return f"op0:{self.op0} op1:{self.op1} crn:{self.crn} crm:{self.crm} op2:{self.op2}"

    @property
    def register_id(self) -> int:
        """ARM64_SYS_REG(...)."""
        number = self.op0 << 14 | self.op1 << 11 | self.crn << 7 | self.crm << 3 | self.op2
        return _ARM64_BASE | _SIZE_U64 | _NUMBERS[RegisterKind.SYSREG] << 16 | number


def kind_of(register_id: int) -> RegisterKind:
    """The kind of register that an id stands for."""
    architecture = register_id >> 56
    if architecture == _ARM:
        return RegisterKind.AARCH32
    if architecture != _ARM64:
        return RegisterKind.OTHER
    return _KINDS.get(register_id >> 16 & 0xFFF, RegisterKind.OTHER)


def size_of(register_id: int) -> int:
    """The register's size in bytes; on the wire every value is widened to 8."""
    return 1 << (register_id >> 52 & 0xF)


def encoding_of(register_id: int) -> SysregEncoding:
    """The operands of a system register's id. Raises :class:`ValueError` for ids of another kind."""
    if kind_of(register_id) is not RegisterKind.SYSREG:
        raise ValueError(f"id of a system register expected, found {register_id:#x}")
    number = register_id & 0xFFFF
    return SysregEncoding(number >> 14, number >> 11 & 7, number >> 7 & 15, number >> 3 & 15, number & 7)


def name_of(register_id: int) -> str:
    """The register's name; for one that has none here, what its id says."""
    known = _names().get(register_id)
    if known is not None:
        return known
    kind = kind_of(register_id)
    if kind is RegisterKind.SYSREG:
        return str(encoding_of(register_id))
    if kind is RegisterKind.AARCH32:
        return _aarch32_name(register_id)
    return f"{kind} register {register_id & 0xFFFF}"


def describe(register_id: int) -> str:
    """Name and id, as messages show them: ``TCR2_EL1 (0x603000000013c103)``."""
    return f"{name_of(register_id)} ({register_id:#018x})"


def id_of(name: str) -> int:
    """The id of a name, or of an id in hex (``0x603000000013c103``) or of operands (``op0:3 op1:0 crn:2 crm:0 op2:3``).

    Raises :class:`UnknownRegister`.
    """
    text = name.strip()
    if text.lower().startswith("0x"):
        try:
            value = int(text, 16)
        except ValueError:
            raise UnknownRegister(f"register id in hex expected, found {name!r}") from None
        if value > MAX_ID:
            raise UnknownRegister(f"register id of 64 bits expected, found {name!r}")
        return value
    operands = re.fullmatch(r"op0:(\d+) op1:(\d+) crn:(\d+) crm:(\d+) op2:(\d+)", text)
    if operands:
        encoding = SysregEncoding(*map(int, operands.groups()))
        if encoding_of(encoding.register_id) != encoding:
            raise UnknownRegister(f"operands of a system register expected, found {name!r}")
        return encoding.register_id
    known = _ids().get(text.upper())
    if known is None:
        close = difflib.get_close_matches(text.upper(), _ids(), n=3)
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise UnknownRegister(f"name of a register or its id in hex expected, found {name!r}{hint}")
    return known


def known_ids() -> tuple[int, ...]:
    """Every id that has a name here, ascending."""
    return tuple(sorted(_names()))


@cache
def _names() -> dict[int, str]:
    text = resources.files(__package__).joinpath("registers.csv").read_text(encoding="ascii")
    return {_derive(row["kind"], row["encoding"]): row["name"] for row in csv.DictReader(text.splitlines())}


@cache
def _ids() -> dict[str, int]:
    return {name: register_id for register_id, name in _names().items()}


def _derive(kind_name: str, encoding: str) -> int:
    kind = RegisterKind(kind_name)
    if kind is RegisterKind.SYSREG:
        return SysregEncoding(*map(int, encoding.split())).register_id
    # CCSIDR is a 32-bit register; the rest are 64 bits wide.
    size = _SIZE_U32 if kind is RegisterKind.DEMUX else _SIZE_U64
    return _ARM64_BASE | size | _NUMBERS[kind] << 16 | int(encoding)


def _aarch32_name(register_id: int) -> str:
    """A coprocessor register: target/arm/cpregs.h: ENCODE_CP_REG, kvm-consts.h. Bit 29 is the non-secure bank."""
    coprocessor = register_id >> 16 & 0xFFF
    crn, crm = register_id >> 11 & 15, register_id >> 7 & 15
    opc1, opc2 = register_id >> 3 & 15, register_id & 7
    bank = " NS" if register_id >> 29 & 1 else ""
    return f"cp{coprocessor} opc1:{opc1} crn:{crn} crm:{crm} opc2:{opc2}{bank}"
