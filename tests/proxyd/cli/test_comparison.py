"""Comparing registers, vCPU by vCPU."""

from __future__ import annotations

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.cli.comparison import OTHER_BITS, Comparison, Difference, FieldDifference, by_field, compare
from proxyd.cli.subject import Subject
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.plan import VcpuRegisters

MMFR2, TPIDR, TCR2 = map(id_of, ("ID_AA64MMFR2_EL1", "TPIDR_EL1", "TCR2_EL1"))


def stream(*vcpus: dict[int, int]) -> Subject:
    return Subject("s", tuple(VcpuRegisters(n, CpregList(one)) for n, one in enumerate(vcpus)), machine="virt")


def host(registers: dict[int, int]) -> Subject:
    described = HostDescription("h", CpregList(registers))
    return Subject("h", (VcpuRegisters(0, described.registers),), host=described)


def test_nothing_differs() -> None:
    found = compare(stream({TPIDR: 1}), stream({TPIDR: 1}))
    assert found == Comparison((), (), (), (), ())
    assert found.same


def test_each_kind_of_difference_with_the_vcpus_that_have_it() -> None:
    a = stream({TPIDR: 1, MMFR2: 5, TCR2: 0}, {TPIDR: 2, MMFR2: 5, TCR2: 0}, {TPIDR: 1})
    b = stream({TPIDR: 1, MMFR2: 6}, {TPIDR: 1, MMFR2: 6})
    found = compare(a, b)
    assert found.only_in_a == (Difference(TCR2, 0, None, (0, 1)),)
    assert found.only_in_b == ()
    assert found.other_value == (Difference(MMFR2, 5, 6, (0, 1)), Difference(TPIDR, 2, 1, (1,)))
    assert (found.vcpus_only_in_a, found.vcpus_only_in_b) == ((2,), ())
    assert not found.same
    back = compare(b, a)
    assert back.only_in_b == (Difference(TCR2, None, 0, (0, 1)),)
    assert (back.vcpus_only_in_a, back.vcpus_only_in_b) == ((), (2,))


def test_a_host_stands_for_every_vcpu_of_a_stream() -> None:
    vcpus = stream({TPIDR: 1}, {TPIDR: 1})
    assert compare(vcpus, host({TPIDR: 2})).other_value == (Difference(TPIDR, 1, 2, (0, 1)),)
    assert compare(host({TPIDR: 2}), vcpus).other_value == (Difference(TPIDR, 2, 1, (0, 1)),)
    assert compare(host({TPIDR: 2}), host({TPIDR: 3})).other_value == (Difference(TPIDR, 2, 3, (0,)),)
    assert not compare(vcpus, host({TPIDR: 2})).vcpus_only_in_a


def test_fields() -> None:
    nv = Difference(MMFR2, 0x0220011100001011, 0x0220011102101011, (0,))
    assert by_field(nv) == (FieldDifference("NV", 0, 2), FieldDifference("CCIDX", 0, 1))
    assert by_field(Difference(TPIDR, 0, 1, (0,))) == ()
    assert by_field(Difference(MMFR2, 0, None, (0,))) == ()
    assert by_field(Difference(MMFR2, None, 0, (0,))) == ()


def test_signed_fields_and_bits_that_no_field_covers() -> None:
    pfr0, psci = id_of("ID_AA64PFR0_EL1"), id_of("FW_PSCI_VERSION")
    assert by_field(Difference(pfr0, 0x00110000, 0x00FF0000, (0,))) == (
        FieldDifference("AdvSIMD", 1, -1),
        FieldDifference("FP", 1, -1),
    )
    high = 1 << 63
    assert by_field(Difference(psci, high | 1, 1, (0,))) == (FieldDifference(OTHER_BITS, high, 0),)
