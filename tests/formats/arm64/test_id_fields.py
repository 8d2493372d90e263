"""ID register fields: a sound table, and real values read with it."""

from __future__ import annotations

import pytest

from formats.arm64 import id_fields
from formats.arm64.id_fields import IdField, UnknownField, field_named, fields_of, is_id_register, registers_with_fields
from formats.arm64.register_id import id_of, size_of


@pytest.mark.parametrize("register", registers_with_fields(), ids=hex)
def test_the_table_is_sound(register: int) -> None:
    fields = fields_of(register)
    assert fields
    covered = 0
    for field in fields:
        assert not covered & field.mask, f"{field.name} overlaps"
        covered |= field.mask
    assert covered < 1 << 8 * size_of(register)
    assert len({field.name for field in fields}) == len(fields)


# Values of real kernels: ID registers as neoverse-v1 (emulated) shows them.
@pytest.mark.parametrize(
    ("register", "value", "field", "expected"),
    [
        ("ID_AA64MMFR2_EL1", 0x220011102101011, "CCIDX", 1),  # Linux 6.1
        ("ID_AA64MMFR2_EL1", 0x220011102001011, "CCIDX", 0),  # Linux 6.12
        ("ID_AA64MMFR2_EL1", 0x220011102001011, "NV", 2),
        ("ID_AA64MMFR2_EL1", 0x220011100001011, "NV", 0),  # Linux 6.16
        ("ID_MMFR4_EL1", 0x1021110, "CCIDX", 1),
        ("ID_AA64DFR0_EL1", 0x10305408, "DebugVer", 8),
        ("ID_AA64MMFR1_EL1", 0x10112010312122, "HCX", 1),
        ("ID_AA64MMFR3_EL1", 0x111, "SCTLRX", 1),
        ("ID_AA64ISAR2_EL1", 0x1120000000110012, "ATS1A", 1),
        ("ID_AA64PFR2_EL1", 0x100000000, "FPMR", 1),
        ("ID_AA64PFR0_EL1", 0x00F00000, "AdvSIMD", -1),
        ("ID_AA64PFR0_EL1", 0x1100000011111111, "FP", 1),
        ("FW_PSCI_VERSION", 0x10003, "MINOR", 3),
        ("CTR_EL0", 0x9444C004, "IDC", 1),
    ],
)
def test_real_values(register: str, value: int, field: str, expected: int) -> None:
    assert field_named(id_of(register), field).get(value) == expected


def test_put() -> None:
    plain, signed = IdField("A", 4, 4), IdField("B", 8, 4, signed=True)
    assert plain.put(0xFFFF, 2) == 0xFF2F
    assert signed.put(0, -1) == 0xF00
    assert signed.get(signed.put(0, -8)) == -8
    for field, value in ((plain, 16), (plain, -1), (signed, 8), (signed, -9)):
        with pytest.raises(ValueError, match=rf"^field {field.name}: value of -?\d+ to \d+ expected, found {value}$"):
            field.put(0, value)


def test_unknown_fields() -> None:
    with pytest.raises(UnknownField, match=r"^field of ID_AA64MMFR3_EL1 .* expected, found 'TCRY' \(its fields: TCRX"):
        field_named(id_of("ID_AA64MMFR3_EL1"), "TCRY")
    with pytest.raises(UnknownField, match=r"\(no fields are known\)$"):
        field_named(id_of("TPIDR_EL1"), "X")


def test_which_are_id_registers() -> None:
    assert is_id_register(id_of("ID_PFR0_EL1"))
    assert is_id_register(id_of("ID_UNALLOCATED_7_7"))
    for name in ("MIDR_EL1", "CTR_EL0", "TCR2_EL1", "FW_PSCI_VERSION", "DEMUX_CCSIDR[0]"):
        assert not is_id_register(id_of(name))


def test_for_people() -> None:
    register = id_of("ID_AA64MMFR3_EL1")
    assert id_fields.describe_field(register, field_named(register, "TCRX"), 1) == "ID_AA64MMFR3_EL1.TCRX = 0x1"
