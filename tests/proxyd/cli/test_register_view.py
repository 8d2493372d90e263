"""Registers for people."""

from __future__ import annotations

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.cli.register_view import fields_text, grouped, is_identity, ranges, register_document
from proxyd.rewrite.plan import VcpuRegisters

MMFR2 = id_of("ID_AA64MMFR2_EL1")


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("MIDR_EL1", True),
        ("ID_AA64MMFR2_EL1", True),
        ("CTR_EL0", True),
        ("DEMUX_CCSIDR[0]", True),
        ("FW_PSCI_VERSION", True),
        ("FW_STD_BMAP", True),
        ("CSSELR_EL1", False),
        ("TCR2_EL1", False),
        ("0x40200000200f4e06", False),
    ],
)
def test_what_tells_a_guest_what_it_runs_on(name: str, identity: bool) -> None:
    assert is_identity(id_of(name)) is identity


def test_fields_that_are_not_0_most_significant_first() -> None:
    assert fields_text(MMFR2, 0x0000000002100000) == "NV 2, CCIDX 1"
    assert fields_text(MMFR2, 0) == ""
    assert fields_text(id_of("TPIDR_EL1"), 5) == ""


def test_documents_have_numbers_as_hex_text() -> None:
    document = register_document(MMFR2, 1 << 63)
    fields = document.pop("fields")
    assert document == {"name": "ID_AA64MMFR2_EL1", "id": "0x603000000013c03a", "value": "0x8000000000000000"}
    assert {name for name, value in fields.items() if value} == {"E0PD"}
    assert register_document(id_of("TPIDR_EL1"), 0) == {
        "name": "TPIDR_EL1",
        "id": "0x603000000013c684",
        "value": "0x0",
    }


def test_vcpus_that_agree_are_one_row() -> None:
    vcpus = [VcpuRegisters(n, CpregList({7: 0, 9: value})) for n, value in enumerate([5, 1, 5])]
    assert grouped(vcpus) == [(7, 0, (0, 1, 2)), (9, 5, (0, 2)), (9, 1, (1,))]


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 3], "0-3"), ([6, 0, 1, 1, 8, 9], "0-1,6,8-9")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text
