"""Fields of ID registers and of a few others: name, place, sign. Layout only, from the Arm ARM.

``id_fields.toml`` is keyed by register name: ``FIELD = [shift, width]`` or ``[shift, width, "signed"]``. A signed field
counts from -1 (0xf: not implemented) up, so that "lower" always means "less".
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from formats.arm64.register_id import RegisterKind, describe, encoding_of, id_of, kind_of, name_of


class UnknownField(ValueError):
    """The register has no field of that name. The message names close ones."""


@dataclass(frozen=True, slots=True)
class IdField:
    """A field: ``width`` bits from bit ``shift`` up."""

    name: str
    shift: int
    width: int
    signed: bool = False

    @property
    def mask(self) -> int:
        """The field's bits in the register."""
        return (1 << self.width) - 1 << self.shift

    def get(self, value: int) -> int:
        """The field's value in a register's ``value``."""
        raw = (value & self.mask) >> self.shift
        return raw - (1 << self.width) if self.signed and raw >> self.width - 1 else raw

    def put(self, value: int, field_value: int) -> int:
        """The register's ``value`` with the field set. Raises :class:`ValueError` if it does not fit."""
        low = -(1 << self.width - 1) if self.signed else 0
        high = (1 << self.width - self.signed) - 1
        if not low <= field_value <= high:
            raise ValueError(f"field {self.name}: value of {low} to {high} expected, found {field_value}")
        return value & ~self.mask | field_value << self.shift & self.mask


def fields_of(register_id: int) -> tuple[IdField, ...]:
    """The register's fields, lowest first; empty if none are known."""
    return _table().get(register_id, ())


def field_named(register_id: int, name: str) -> IdField:
    """One field by name. Raises :class:`UnknownField`."""
    fields = {field.name: field for field in fields_of(register_id)}
    if name not in fields:
        close = difflib.get_close_matches(name, fields, n=3) or list(fields)[:8]
        hint = f" (its fields: {', '.join(close)})" if close else " (no fields are known)"
        raise UnknownField(f"field of {describe(register_id)} expected, found {name!r}{hint}")
    return fields[name]


def is_id_register(register_id: int) -> bool:
    """Whether KVM treats the register as one of its ID registers: op0 3, op1 0, CRn 0, CRm 1 to 7."""
    if kind_of(register_id) is not RegisterKind.SYSREG:
        return False
    encoding = encoding_of(register_id)
    return (encoding.op0, encoding.op1, encoding.crn) == (3, 0, 0) and encoding.crm in _ID_CRM


def registers_with_fields() -> tuple[int, ...]:
    """Every register whose fields are known, ascending."""
    return tuple(sorted(_table()))


_ID_CRM: Final = range(1, 8)


@cache
def _table() -> dict[int, tuple[IdField, ...]]:
    data = tomllib.loads(resources.files(__package__).joinpath("id_fields.toml").read_text(encoding="ascii"))
    table = {}
    for name, fields in data.items():
        parsed = [IdField(key, place[0], place[1], "signed" in place[2:]) for key, place in fields.items()]
        table[id_of(name)] = tuple(sorted(parsed, key=lambda field: field.shift))
    return table


def describe_field(register_id: int, field: IdField, value: int) -> str:
    """``ID_AA64MMFR3_EL1.TCRX = 0x1``, for people; ``value`` is the register's."""
    return f"{name_of(register_id)}.{field.name} = {field.get(value):#x}"
