"""Which values a described destination takes, against what real kernels took."""

from __future__ import annotations

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.rewrite.acceptance import Acceptance
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from tests import recorded


def host(kernel: str, cpu: str) -> HostDescription:
    return HostDescription.parse(recorded.host_json(kernel, cpu), "host")


def acceptance(description: HostDescription) -> Acceptance:
    return Acceptance(description, Knowledge.builtin())


def refused(where: Acceptance, register: str, value: int) -> list[str | None]:
    return [mismatch.field for mismatch in where.mismatches(id_of(register), value)]


# (cpu, destination, register, value, fields that KVM refused with EINVAL): measured, one KVM_SET_ONE_REG each.
MEASURED = [
    ("max", "6.12", "ID_AA64MMFR1_EL1", 0x10102010312122, ["HCX"]),
    ("max", "6.12", "ID_AA64FPFR0_EL1", 0xFC000003, ["F8MM4", "F8MM8"]),
    ("max", "6.12", "ID_AA64ISAR3_EL1", 0x10000010, ["FAMINMAX", "FPRCVT"]),
    ("max", "6.12", "ID_AA64MMFR2_EL1", 0x1221011110011011, ["NV"]),
    ("max", "6.12", "FW_PSCI_VERSION", 0x10003, [None]),
    ("max", "6.16", "ID_AA64MMFR3_EL1", 0x111, ["SCTLRX"]),
    ("max", "7.1", "ID_AA64ISAR2_EL1", 0x1120000000110012, ["ATS1A"]),
    ("max", "6.1", "ID_AA64PFR2_EL1", 0x100000000, ["FPMR"]),
    ("max", "6.1", "CLIDR_EL1", 0x1000004, [None]),
    ("neoverse-n1", "6.1", "ID_AA64DFR0_EL1", 0x10305408, ["DebugVer"]),
    ("neoverse-v1", "6.12", "ID_MMFR4_EL1", 0x1021110, ["CCIDX"]),
    ("neoverse-v1", "7.3", "ID_MMFR4_EL1", 0x1021110, ["CCIDX"]),
    ("neoverse-v1", "7.3", "ID_AA64MMFR2_EL1", 0x220011100101011, ["CCIDX"]),
    ("max", "7.3", "ID_AA64MMFR1_EL1", 0x10102010312122, []),
    ("max", "7.3", "FW_PSCI_VERSION", 0x10001, []),
    ("max", "7.3", "CLIDR_EL1", 0x123, []),
    ("max", "7.3", "TPIDR_EL1", 0x1234, []),
]


@pytest.mark.parametrize(("cpu", "kernel", "register", "value", "fields"), MEASURED)
def test_as_measured(cpu: str, kernel: str, register: str, value: int, fields: list[str | None]) -> None:
    assert refused(acceptance(host(kernel, cpu)), register, value) == fields


# Taken without an error, and not kept: measured, KVM_SET_ONE_REG and KVM_GET_ONE_REG.
SILENT = [
    ("neoverse-v1", "7.3", "ID_AA64MMFR2_EL1", 0x220011102001011, {"NV": 0}),
    ("neoverse-n1", "7.3", "PMCR_EL0", 0x410C30AC, {"IDCODE": 0, "IMP": 0}),
    ("neoverse-n1", "7.3", "PMCR_EL0", 0x4000, {"N": 6}),
    ("neoverse-n1", "6.1", "PMCR_EL0", 0x410C30AC, {}),
    ("neoverse-n1", "6.16", "PMCNTENSET_EL0", 0xFFFFFFFF, {None: 0}),
    ("neoverse-n1", "6.1", "PMCNTENSET_EL0", 0xFFFFFFFF, {}),
    ("neoverse-n1", "6.16", "PMCNTENCLR_EL0", 0xFFFFFFFF, {None: 0}),
    ("neoverse-n1", "6.12", "PMCNTENCLR_EL0", 0xFFFFFFFF, {}),  # clears: another story
    ("neoverse-n1", "7.3", "FW_WORKAROUND_1", 0, {None: 2}),
]


@pytest.mark.parametrize(("cpu", "kernel", "register", "value", "kept"), SILENT)
def test_what_is_taken_and_not_kept(
    cpu: str, kernel: str, register: str, value: int, kept: dict[str | None, int]
) -> None:
    found = acceptance(host(kernel, cpu)).mismatches(id_of(register), value)
    assert {mismatch.field: mismatch.destination_value for mismatch in found} == kept
    assert all(mismatch.silent for mismatch in found)
    assert all(mismatch.why.endswith("without an error") for mismatch in found)


def test_cache_lines_must_not_be_shorter() -> None:
    where = acceptance(host("7.3", "neoverse-n1"))
    (mismatch,) = where.mismatches(id_of("DEMUX_CCSIDR[0]"), 0)
    assert (mismatch.field, mismatch.why, mismatch.silent) == ("LineSize", "takes at least its own value", False)
    assert where.mismatches(id_of("DEMUX_CCSIDR[0]"), 0x701FE01A) == ()


def test_masks_come_from_the_knowledge_base_if_nobody_asked_the_kernel() -> None:
    probed = host("7.3", "max")
    bare = HostDescription(name="h", registers=probed.registers, kernel="7.3", origin="stream")
    for description in (probed, bare):
        assert refused(acceptance(description), "ID_AA64MMFR3_EL1", 0x101) == []
        assert refused(acceptance(description), "ID_AA64MMFR3_EL1", 0x1111) == ["S2PIE"]
    unknown = acceptance(HostDescription(name="h", registers=probed.registers, origin="stream"))
    (mismatch,) = unknown.mismatches(id_of("ID_AA64MMFR3_EL1"), 0x101)
    assert mismatch.why == "takes an unknown set of values (its kernel and writable masks are not in the description)"
    old = acceptance(HostDescription(name="h", registers=probed.registers, kernel="6.6.1", origin="stream"))
    (mismatch,) = old.mismatches(id_of("ID_AA64MMFR3_EL1"), 0x101)
    assert (mismatch.value, mismatch.destination_value) == (0, 1)
    assert mismatch.why == "takes only its own value (Linux 6.6)"


def small(accelerator: str = "kvm", **registers: int) -> Acceptance:
    values = {id_of(name): value for name, value in registers.items()}
    masks = {id_of("ID_AA64PFR0_EL1"): (1 << 64) - 1, id_of("ID_UNALLOCATED_7_7"): 0xF}
    return acceptance(
        HostDescription(
            name="h", registers=CpregList(values), accelerator=accelerator, kernel="7.3", writable_masks=masks
        )
    )


def test_signed_fields_count_from_minus_one() -> None:
    without_fp = small(ID_AA64PFR0_EL1=0xFF0000)
    assert refused(without_fp, "ID_AA64PFR0_EL1", 0x000000) == ["FP", "AdvSIMD"]
    assert refused(small(ID_AA64PFR0_EL1=0x000000), "ID_AA64PFR0_EL1", 0xFF0000) == []


def test_bits_without_a_name_are_judged_by_nibbles() -> None:
    where = small(ID_UNALLOCATED_7_7=0x3)
    assert refused(where, "ID_UNALLOCATED_7_7", 0x1) == []
    assert refused(where, "ID_UNALLOCATED_7_7", 0x7) == ["[3:0]"]
    (mismatch,) = where.mismatches(id_of("ID_UNALLOCATED_7_7"), 0x53)
    assert (mismatch.field, mismatch.mask, mismatch.value, mismatch.destination_value) == ("[7:4]", 0xF0, 5, 0)


def test_bitmaps_are_subsets_and_identity_is_equal() -> None:
    where = small(FW_VENDOR_HYP_BMAP_2=0b01, MIDR_EL1=1)
    assert refused(where, "FW_VENDOR_HYP_BMAP_2", 0) == []
    (mismatch,) = where.mismatches(id_of("FW_VENDOR_HYP_BMAP_2"), 0b11)
    assert mismatch.why == "does not know the bits 0x2"
    (mismatch,) = where.mismatches(id_of("MIDR_EL1"), 2)
    assert mismatch.why == "takes only its own value"
    assert refused(small(FW_WORKAROUND_1=1), "FW_WORKAROUND_1", 2) == [None]
    (mismatch,) = small(FW_PSCI_VERSION=0x10001).mismatches(id_of("FW_PSCI_VERSION"), 0x10003)
    assert mismatch.why == "takes at most its own value"


def test_tcg_takes_its_own_identity_only() -> None:
    where = small(accelerator="tcg", ID_AA64PFR0_EL1=0x22, ID_AA64MMFR2_EL1=0, TPIDR_EL1=0, MIDR_EL1=1)
    assert refused(where, "ID_AA64PFR0_EL1", 0x21) == ["EL0"]
    assert refused(where, "ID_AA64MMFR2_EL1", 0x2000000) == ["NV"]
    assert refused(where, "TPIDR_EL1", 1) == []
    assert refused(where, "MIDR_EL1", 2) == []
    constants = small(accelerator="tcg", CLIDR_EL1=1, REVIDR_EL1=1, AIDR_EL1=1, CTR_EL0=1)
    for register in ("CLIDR_EL1", "REVIDR_EL1", "AIDR_EL1"):
        (mismatch,) = constants.mismatches(id_of(register), 2)
        assert mismatch.why == "is emulated by TCG and takes only its own value"
    assert refused(constants, "CTR_EL0", 2) == ["IminLine"]


def test_a_field_that_could_be_lowered_before_there_were_masks() -> None:
    csv2 = 1 << 56
    description = HostDescription(name="h", registers=CpregList({id_of("ID_AA64PFR0_EL1"): csv2}), kernel="6.1")
    assert refused(acceptance(description), "ID_AA64PFR0_EL1", 0) == []
    assert refused(acceptance(description), "ID_AA64PFR0_EL1", 2 * csv2) == ["CSV2"]
    assert refused(acceptance(description), "ID_AA64PFR0_EL1", csv2 | 1) == ["EL0"]


def test_answers_are_kept() -> None:
    where = small(MIDR_EL1=1)
    assert where.mismatches(id_of("MIDR_EL1"), 2) is where.mismatches(id_of("MIDR_EL1"), 2)
    assert where.mismatches(id_of("MIDR_EL1"), 1) == ()
