"""What QEMU would do by itself; whether it is so, tests/integration/test_measured_pairs.py asks of real pairs."""

from __future__ import annotations

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.rewrite.acceptance import Acceptance
from proxyd.rewrite.changes import VcpuRegisters
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.unaided import Foreseen, Unaided, foresee, parse_qemu

KNOWLEDGE = Knowledge.builtin()
TPIDR, TCR2, MMFR3, BMAP_2, SCTLR2 = (
    id_of(name) for name in ("TPIDR_EL1", "TCR2_EL1", "ID_AA64MMFR3_EL1", "FW_VENDOR_HYP_BMAP_2", "SCTLR2_EL1")
)


def foreseen(
    stream: dict[int, int], destination: dict[int, int], qemu: str | None = "10.0.13", kernel: str = "7.3.4"
) -> Unaided:
    host = HostDescription(name="h", registers=CpregList(destination), kernel=kernel, qemu=qemu)
    vcpus = [VcpuRegisters(number, CpregList(stream)) for number in (0, 1)]
    return foresee(vcpus, Acceptance(host, KNOWLEDGE))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("10.0.13", (10, 0)),
        ("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1)", (11, 1)),
        ("qemu-kvm-9.1", (9, 1)),
        ("", None),
        (None, None),
    ],
)
def test_versions(text: str | None, version: tuple[int, int] | None) -> None:
    assert parse_qemu(text) == version


def test_the_same_list_loads() -> None:
    assert foreseen({TPIDR: 1}, {TPIDR: 0}).foreseen is Foreseen.LOADS


def test_a_longer_list() -> None:
    longer = {TPIDR: 1, MMFR3: 0, TCR2: 0}
    found = foreseen(longer, {TPIDR: 0, MMFR3: 0})
    assert found.fails == (
        "Invalid value 3 expecting positive value <= 2 (cpreg_vmstate_array_len)",
        "TCR2_EL1 (0x603000000013c103) = 0x0: the destination does not list it",
    )
    assert found.foreseen is Foreseen.FAILS
    assert foreseen(longer, {TPIDR: 0, MMFR3: 0}, qemu="11.1.3") == Unaided()
    unknown = foreseen(longer, {TPIDR: 0, MMFR3: 0}, qemu=None)
    assert unknown.foreseen is Foreseen.UNKNOWN
    assert unknown.unknown == (
        "3 registers for 2: QEMU up to 10.2 fails on that; its version is not known",
        "TCR2_EL1 (0x603000000013c103) = 0x0: the destination does not list it, and its QEMU's version is not known",
    )


@pytest.mark.parametrize(
    ("qemu", "value", "expected"),
    [
        ("10.0", 0, Foreseen.LOADS),  # proven: dropped, and nothing with it
        ("10.2", 1, Foreseen.CHANGES),
        ("11.0", 0, Foreseen.UNKNOWN),
        ("11.1", 0, Foreseen.LOADS),
        ("11.1", 1, Foreseen.FAILS),
    ],
)
def test_a_register_above_all_that_the_destination_has(qemu: str, value: int, expected: Foreseen) -> None:
    found = foreseen({TPIDR: 1, BMAP_2: value}, {TPIDR: 0, MMFR3: 0}, qemu)
    # MMFR3 is missing, which nothing is known of: taken out, to look at the other only.
    changes = tuple(sentence for sentence in found.changes if "ID_AA64MMFR3" not in sentence)
    assert Unaided(found.fails, changes, found.unknown).foreseen is expected
    assert all("BMAP_2" in sentence for sentence in (*found.fails, *changes, *found.unknown))


def test_values() -> None:
    psci, nv = id_of("FW_PSCI_VERSION"), id_of("ID_AA64MMFR2_EL1")
    found = foreseen({psci: 0x10003, nv: 2 << 24}, {psci: 0x10001, nv: 0})
    assert found.fails == ("FW_PSCI_VERSION = 0x10003: EINVAL, the destination takes at most its own value",)
    assert found.changes == ("ID_AA64MMFR2_EL1.NV = 0x2 becomes 0x0 without an error",)


def test_a_register_that_the_streams_own_field_hides() -> None:
    destination = {MMFR3: 0x11, SCTLR2: 0}
    found = foreseen({MMFR3: 0x01}, destination)
    assert found.fails == (
        "SCTLR2_EL1 (0x603000000013c083): ENOENT, because the stream has ID_AA64MMFR3_EL1.SCTLRX off",
    )
    assert foreseen({MMFR3: 0x11}, destination).foreseen is Foreseen.LOADS
    older = foreseen({MMFR3: 0x01}, destination, kernel="6.16.1").fails
    assert not any("ENOENT" in sentence for sentence in older)


def test_what_the_destination_makes_up() -> None:
    psci = id_of("FW_PSCI_VERSION")
    found = foreseen({TPIDR: 0}, {TPIDR: 0, psci: 0x10003})
    assert found.changes == (
        "FW_PSCI_VERSION (0x6030000000140000) is not in the stream: the destination makes up 0x10003",
    )


def test_what_is_cleared_again() -> None:
    set_, clear, pmcr = (id_of(name) for name in ("PMCNTENSET_EL0", "PMCNTENCLR_EL0", "PMCR_EL0"))
    stream, destination = {set_: 1, clear: 1, pmcr: 0x3000}, {set_: 0, clear: 0, pmcr: 0x3000}
    sentence = "PMCNTENSET_EL0 (0x603000000013dce1) = 0x1 is cleared again without an error"
    assert foreseen(stream, destination, kernel="6.12.107").changes == (sentence,)
    doubtful = foreseen(stream, destination, kernel="6.8.0-31-generic")
    assert doubtful.unknown == (f"{sentence} if the kernel is as Linux 6.7 to 6.12.107",)
    assert foreseen(stream | {set_: 0}, destination, kernel="6.12.107").changes == ()


def test_a_field_that_the_destination_hides_without_another() -> None:
    isar2 = id_of("ID_AA64ISAR2_EL1")
    found = foreseen({MMFR3: 0x100, isar2: 0}, {MMFR3: 0x100, isar2: 1 << 60})
    assert found.changes == (
        "ID_AA64MMFR3_EL1.S1PIE becomes 0 without an error: the stream has ID_AA64ISAR2_EL1.ATS1A off",
    )
    assert foreseen({MMFR3: 0x100, isar2: 0}, {MMFR3: 0x100, isar2: 1 << 60}, kernel="7.2").changes == ()


def test_what_is_told_counts_as_a_change() -> None:
    ctr, ptimer = id_of("CTR_EL0"), id_of("PTIMER_CTL")
    found = foreseen({ctr: 1}, {ctr: 1, ptimer: 0})
    assert [sentence.partition(" ")[0] for sentence in found.changes] == ["CTR_EL0:", "PTIMER_CTL"]
