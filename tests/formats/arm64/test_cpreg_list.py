"""CpregList cannot be out of order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.arm64.cpreg_list import CpregList
from formats.errors import SchemaMismatch

A, B, C = 0x602000000011000D, 0x603000000013C103, 0x6030000000160003


def test_from_arrays_and_edited() -> None:
    registers = CpregList.from_arrays((A, C), (1, 2))
    assert (registers.ids, registers.values_in_order) == ((A, C), (1, 2))
    edited = registers.edited(remove={A}, put={B: 7, C: 3})
    assert dict(edited) == {B: 7, C: 3}
    assert (len(edited), edited[B], A in edited) == (2, 7, False)
    assert registers.edited() == registers
    assert hash(registers.edited()) == hash(registers)
    assert registers != {A: 1, C: 2}
    assert repr(registers) == "CpregList(2 registers)"
    assert dict(CpregList()) == {}


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        (
            (B, A),
            (1, 2),
            r"found DEMUX_CCSIDR\[13\] \(0x602000000011000d\) behind TCR2_EL1 \(0x603000000013c103\)$",
        ),
        ((A, A), (1, 2), r"^cpreg list: ids in ascending order expected"),
        ((A,), (1, 2), r"^cpreg list: 1 indexes, but 2 values$"),
    ],
)
def test_arrays_that_qemu_would_not_write(ids: tuple[int, ...], values: tuple[int, ...], message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        CpregList.from_arrays(ids, values)


@pytest.mark.parametrize("bad", [{-1: 0}, {0: -1}, {1 << 64: 0}, {0: 1 << 64}])
def test_only_64_bits(bad: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="of 64 bits expected"):
        CpregList(bad)


U64 = st.integers(0, (1 << 64) - 1)


@given(st.dictionaries(U64, U64), st.sets(U64), st.dictionaries(U64, U64))
def test_always_ascending(registers: dict[int, int], remove: set[int], put: dict[int, int]) -> None:
    ids = CpregList(registers).edited(remove, put).ids
    assert list(ids) == sorted(set(ids))
