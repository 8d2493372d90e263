"""A cpreg list: KVM register id to value, strictly ascending by unsigned id.

QEMU's destination merges two ascending lists in one pass (``target/arm/machine.c: cpu_post_load``); a list out of order
is merged wrongly or refused. A type that cannot be out of order removes that class of bugs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from formats.arm64.register_id import MAX_ID, describe
from formats.errors import SchemaMismatch


class CpregList(Mapping[int, int]):
    """Immutable; iterates in ascending order of ids. Values are unsigned 64 bit."""

    __slots__ = ("_registers",)

    def __init__(self, registers: Mapping[int, int] | None = None) -> None:
        self._registers = dict(sorted((registers or {}).items()))
        for register_id, value in self._registers.items():
            if not (0 <= register_id <= MAX_ID and 0 <= value <= MAX_ID):
                raise ValueError(f"register id and value of 64 bits expected, found {register_id:#x} = {value:#x}")

    @classmethod
    def from_arrays(cls, ids: Sequence[int], values: Sequence[int]) -> CpregList:
        """From the stream's two arrays. Raises :class:`SchemaMismatch` unless they ascend and pair up."""
        if len(ids) != len(values):
            raise SchemaMismatch(f"cpreg list: {len(ids)} indexes, but {len(values)} values")
        previous = -1
        for register_id in ids:
            if register_id <= previous:
                raise SchemaMismatch(
                    f"cpreg list: ids in ascending order expected, found {describe(register_id)} "
                    f"behind {describe(previous)}"
                )
            previous = register_id
        return cls(dict(zip(ids, values, strict=True)))

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids, ascending."""
        return tuple(self._registers)

    @property
    def values_in_order(self) -> tuple[int, ...]:
        """The values, in the order of ``ids``."""
        return tuple(self._registers.values())

    def edited(self, remove: Collection[int] = (), put: Mapping[int, int] | None = None) -> CpregList:
        """A list without the ids in ``remove``, and with those in ``put`` set or added."""
        kept = {register_id: value for register_id, value in self._registers.items() if register_id not in remove}
        return CpregList(kept | dict(put or {}))

    def __getitem__(self, register_id: int) -> int:
        return self._registers[register_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._registers)

    def __len__(self) -> int:
        return len(self._registers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CpregList) and self._registers == other._registers

    def __hash__(self) -> int:
        return hash(tuple(self._registers.items()))

    def __repr__(self) -> str:
        return f"CpregList({len(self)} registers)"
