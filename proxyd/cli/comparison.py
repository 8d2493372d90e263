"""Comparing the registers of two streams or host descriptions. Decides nothing about what a destination would take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from formats.arm64.id_fields import fields_of
from proxyd.cli.subject import Subject

# Bits of an ID register that no known field covers.
OTHER_BITS: Final = "other bits"


@dataclass(frozen=True, slots=True)
class Difference:
    """One register that is not the same in A and B, on these vCPUs; None where it is not there."""

    register: int
    a: int | None
    b: int | None
    vcpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field of an ID register that is not the same."""

    name: str
    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that differs, ascending by register id, and the vCPUs that only one side has."""

    only_in_a: tuple[Difference, ...]
    only_in_b: tuple[Difference, ...]
    other_value: tuple[Difference, ...]
    vcpus_only_in_a: tuple[int, ...]
    vcpus_only_in_b: tuple[int, ...]

    @property
    def same(self) -> bool:
        """Whether there is no difference at all."""
        return self == Comparison((), (), (), (), ())


def compare(a: Subject, b: Subject) -> Comparison:
    """Compare vCPU by vCPU. A host description beside a stream stands for each of its vCPUs."""
    left, right = _by_vcpu(a), _by_vcpu(b)
    if a.host is not None and b.host is None:
        left = dict.fromkeys(right, a.host.registers)
    elif b.host is not None and a.host is None:
        right = dict.fromkeys(left, b.host.registers)
    rows: dict[tuple[int, int | None, int | None], list[int]] = {}
    for vcpu in sorted(left.keys() & right.keys()):
        here, there = left[vcpu], right[vcpu]
        for register in here.keys() | there.keys():
            if here.get(register) != there.get(register):
                rows.setdefault((register, here.get(register), there.get(register)), []).append(vcpu)
    found = [Difference(*row, tuple(vcpus)) for row, vcpus in rows.items()]
    found.sort(key=lambda one: (one.register, one.vcpus))
    return Comparison(
        only_in_a=tuple(one for one in found if one.b is None),
        only_in_b=tuple(one for one in found if one.a is None),
        other_value=tuple(one for one in found if one.a is not None and one.b is not None),
        vcpus_only_in_a=tuple(sorted(left.keys() - right.keys())),
        vcpus_only_in_b=tuple(sorted(right.keys() - left.keys())),
    )


def by_field(difference: Difference) -> tuple[FieldDifference, ...]:
    """The fields of an ID register that differ, most significant first; nothing for any other register."""
    register, a, b = difference.register, difference.a, difference.b
    if a is None or b is None or not fields_of(register):
        return ()
    found, known = [], 0
    for field in reversed(fields_of(register)):
        known |= field.mask
        if field.get(a) != field.get(b):
            found.append(FieldDifference(field.name, field.get(a), field.get(b)))
    if (a ^ b) & ~known:
        found.append(FieldDifference(OTHER_BITS, a & ~known, b & ~known))
    return tuple(found)


def _by_vcpu(subject: Subject) -> dict[int, Mapping[int, int]]:
    return {one.vcpu: one.registers for one in subject.vcpus}
