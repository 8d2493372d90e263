"""Register ids: derived from encodings, checked against the list of ids that KVM's sources yield."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from formats.arm64 import register_id as r

# Independent of the project's own table: ids as hex, by a scan of KVM's sources from 5.10 to 7.1.
KVM_IDS = list(csv.DictReader((Path(__file__).parent / "kvm-registers.csv").read_text().splitlines()))

TCR2_EL1 = 0x603000000013C103


def test_every_id_of_the_kernels_has_a_name_and_round_trips() -> None:
    assert len(KVM_IDS) == 335
    assert {int(row["kvm_reg_id"], 16) for row in KVM_IDS} <= set(r.known_ids())
    for register_id in r.known_ids():
        assert r.id_of(r.name_of(register_id)) == register_id


@pytest.mark.parametrize(
    "row", [row for row in KVM_IDS if re.fullmatch(r"\w+", row["name"])], ids=lambda row: row["name"]
)
def test_names_agree(row: dict[str, str]) -> None:
    assert r.name_of(int(row["kvm_reg_id"], 16)) == row["name"]


def test_the_timer_ids_are_swapped_for_ever() -> None:
    assert r.id_of("TIMER_CVAL") == 0x603000000013DF02
    assert r.id_of("TIMER_CNT") == 0x603000000013DF1A
    assert r.id_of("TIMER_CTL") == 0x603000000013DF19


def test_names_ids_and_operands() -> None:
    assert r.id_of("TCR2_EL1") == r.id_of(" tcr2_el1 ") == TCR2_EL1
    assert r.id_of("0x603000000013c103") == r.id_of("op0:3 op1:0 crn:2 crm:0 op2:3") == TCR2_EL1
    assert r.describe(TCR2_EL1) == "TCR2_EL1 (0x603000000013c103)"
    assert r.encoding_of(TCR2_EL1) == r.SysregEncoding(3, 0, 2, 0, 3)
    assert r.name_of(0x603000000013C4F6) == "PMMIR_EL1"
    assert r.name_of(0x603000000013C022) == "ID_AA64PFR2_EL1"
    assert r.id_of("DEMUX_CCSIDR[13]") == 0x602000000011000D
    assert r.id_of("DBGBVR0_EL1") == 0x6030000000138004


@pytest.mark.parametrize(
    ("register_id", "kind", "size", "name"),
    [
        (TCR2_EL1, r.RegisterKind.SYSREG, 8, "TCR2_EL1"),
        (0x603000000013FFFF, r.RegisterKind.SYSREG, 8, "op0:3 op1:7 crn:15 crm:15 op2:7"),
        (0x602000000011000D, r.RegisterKind.DEMUX, 4, "DEMUX_CCSIDR[13]"),
        (0x6030000000140000, r.RegisterKind.FIRMWARE, 8, "FW_PSCI_VERSION"),
        (0x6030000000140099, r.RegisterKind.FIRMWARE, 8, "firmware register 153"),
        (0x6030000000160003, r.RegisterKind.FIRMWARE_BITMAP, 8, "FW_VENDOR_HYP_BMAP_2"),
        (0x6030000000100042, r.RegisterKind.CORE, 8, "core register 66"),
        (0x6080000000150000, r.RegisterKind.SVE, 256, "sve register 0"),
        (0x6030000000990001, r.RegisterKind.OTHER, 8, "other register 1"),
        (0x1030000000000001, r.RegisterKind.OTHER, 8, "other register 1"),
        # Under TCG: DBGDTRTX, which one QEMU lists and another does not.
        (0x40200000200E0298, r.RegisterKind.AARCH32, 4, "cp14 opc1:3 crn:0 crm:5 opc2:0 NS"),
        (0x40300000000F0010, r.RegisterKind.AARCH32, 8, "cp15 opc1:2 crn:0 crm:0 opc2:0"),
    ],
)
def test_kinds(register_id: int, kind: r.RegisterKind, size: int, name: str) -> None:
    assert (r.kind_of(register_id), r.size_of(register_id), r.name_of(register_id)) == (kind, size, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("TCR3_EL1", r"found 'TCR3_EL1' \(did you mean TCR_EL1 or TCR2_EL1"),
        ("???", r"^name of a register or its id in hex expected, found '\?\?\?'$"),
        ("0xhello", r"^register id in hex expected, found '0xhello'$"),
        ("0x1" + "0" * 16, r"^register id of 64 bits expected"),
        ("op0:3 op1:9 crn:2 crm:0 op2:3", r"^operands of a system register expected"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(r.UnknownRegister, match=message):
        r.id_of(name)


def test_only_system_registers_have_operands() -> None:
    with pytest.raises(ValueError, match=r"^id of a system register expected, found 0x6030000000140000$"):
        r.encoding_of(0x6030000000140000)
