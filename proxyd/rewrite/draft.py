"""Drafts of rules and of knowledge, for a person to review: ``proposal.py`` makes, ``proposal_toml.py`` writes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from formats.arm64.id_fields import fields_of
from formats.arm64.register_id import name_of
from proxyd.rewrite.conditions import Condition, ConditionError
from proxyd.rewrite.knowledge import CaseAction
from proxyd.rewrite.verdict import Verdict

ARGUE: Final = "to be argued"


@dataclass(frozen=True, slots=True)
class DraftRule:
    """A rule for a profile. ``kind`` is remove, set, set-bits or require; ``value`` goes with set, and with ``mask``
    with set-bits. ``said`` are the lines that led to it, ``remarks`` what the reviewer has to know."""

    register: int
    kind: str
    when: str | None
    verdict: Verdict
    reason: str
    said: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    value: int = 0
    mask: int = 0

    def and_bits_of(self, other: DraftRule) -> DraftRule:
        """One set-bits rule for two: a profile's rules all start from the value as it came."""
        return replace(
            self,
            when=" and ".join(dict.fromkeys(filter(None, (self.when, other.when)))) or None,
            verdict=max(self.verdict, other.verdict),
            reason="; ".join(dict.fromkeys((self.reason, other.reason))),
            said=tuple(dict.fromkeys((*self.said, *other.said))),
            remarks=tuple(dict.fromkeys((*self.remarks, *other.remarks))),
            value=self.value & ~other.mask | other.value,
            mask=self.mask | other.mask,
        )


@dataclass(frozen=True, slots=True)
class DraftCase:
    """A case for the knowledge base, which has none that covers this. ``accepts`` is how the destination judges values,
    ``enabled_by`` what hides the register, where they have to be told with it."""

    register: int
    action: CaseAction | None
    fields: tuple[str, ...]
    when: str | None
    reason: str
    evidence: str
    accepts: str | None = None
    enabled_by: str | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """``remarks`` are about what no rule was found for."""

    rules: tuple[DraftRule, ...]
    cases: tuple[DraftCase, ...]
    remarks: tuple[str, ...]


def condition_name(register: int) -> str:
    """How a condition names a register: by its name, or, where that leads nowhere, by its id."""
    name = name_of(register)
    try:
        Condition.parse(f"{name} == 0", "")
    except ConditionError:
        return f"register({register:#x})"
    return name


def whole_fields(register: int, bits: int) -> int:
    """The fields, and nibbles where no field is known, that these bits are in."""
    mask = 0
    for id_field in fields_of(register):
        if bits & id_field.mask:
            mask |= id_field.mask
    left = bits & ~mask
    for shift in range(0, 64, 4):
        if left >> shift & 0xF:
            mask |= 0xF << shift
    return mask


def fields_hold(register: int, mask: int, value: int) -> str:
    """``ID_AA64MMFR2_EL1.NV == 0 and ID_AA64MMFR2_EL1 & 0xf0 == 0x10``."""
    name, left = condition_name(register), mask
    parts = []
    for id_field in fields_of(register):
        if id_field.mask & mask:
            parts.append(f"{name}.{id_field.name} == {id_field.get(value)}")
            left &= ~id_field.mask
    if left:
        parts.append(f"{name} & {left:#x} == {value & left:#x}")
    return " and ".join(parts)
