"""What must hold between the vCPUs of one guest."""

from __future__ import annotations

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.rewrite.agreement import disagreements
from proxyd.rewrite.changes import VcpuRegisters


def said(*vcpus: dict[str, int]) -> list[str]:
    lists = [CpregList({id_of(name): value for name, value in registers.items()}) for registers in vcpus]
    return [str(refusal) for refusal in disagreements([VcpuRegisters(n, one) for n, one in enumerate(lists)])]


def test_vcpus_that_agree() -> None:
    assert said() == []
    assert said({"MPIDR_EL1": 0, "ID_AA64PFR0_EL1": 1, "TPIDR_EL1": 1}, {"MPIDR_EL1": 1, "ID_AA64PFR0_EL1": 1}) == []
    assert said({"TPIDR_EL1": 1 << 63}, {"FW_PSCI_VERSION": 2}) == []


def test_one_number_for_two() -> None:
    assert said({"MPIDR_EL1": 1}, {"MPIDR_EL1": 0}, {"MPIDR_EL1": 1}) == [
        (
            "vcpu 2: MPIDR_EL1 (0x603000000013c005) = 0x1: unknown: "
            "vcpu 0 has the same: the guest could not tell them apart"
        )
    ]


def test_what_is_the_vms() -> None:
    for name in ("ID_AA64ISAR0_EL1", "CTR_EL0", "FW_PSCI_VERSION", "FW_STD_BMAP"):
        (sentence,) = said({name: 1}, {name: 1}, {name: 2})
        assert sentence.startswith(f"vcpu 2: {name} (")
        assert sentence.endswith("= 0x2: unknown: vcpu 0 has 0x1, and KVM keeps one value for the whole VM")
    assert said({"CLIDR_EL1": 1}, {"CLIDR_EL1": 2}) == []


def test_more_bits_than_the_register_has() -> None:
    assert said({"DEMUX_CCSIDR[0]": 1 << 32}) == [
        "vcpu 0: DEMUX_CCSIDR[0] (0x6020000000110000) = 0x100000000: unknown: a value of 32 bits expected"
    ]
