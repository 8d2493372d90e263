"""The knowledge base that ships: whole, with evidence, and true of the kernels that were measured."""

from __future__ import annotations

import pytest

from formats.arm64.register_id import id_of, known_ids, name_of
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.kernel import KernelRange, KernelRelease, parse_kernel
from proxyd.rewrite.knowledge import Accepted, Accepts, CaseAction, Entry, Knowledge, Listing
from proxyd.rewrite.knowledge_file import parse_knowledge
from proxyd.rewrite.vcpu_features import features_of
from proxyd.rewrite.verdict import Verdict
from tests import recorded

TCR2, CLIDR = id_of("TCR2_EL1"), id_of("CLIDR_EL1")
BUILTIN = Knowledge.builtin()


def test_every_register_that_has_a_name_has_an_entry() -> None:
    assert [name_of(register) for register in known_ids() if BUILTIN.entry(register) is None] == []
    assert len(BUILTIN.entries) > 340
    assert BUILTIN.newest_kernel == KernelRelease(7, 3)
    assert Knowledge.builtin() is BUILTIN


@pytest.mark.parametrize("cpu", recorded.CPUS)
@pytest.mark.parametrize("kernel", recorded.KERNELS)
def test_it_lists_what_the_real_kernel_lists(kernel: str, cpu: str) -> None:
    registers = HostDescription.parse(recorded.host_json(kernel, cpu), "host").registers
    release = parse_kernel(kernel)
    assert release is not None
    assert [name_of(register) for register in registers if BUILTIN.entry(register) is None] == []
    said = {
        register: entry.is_listed(release, features_of(registers), registers)
        for register, entry in BUILTIN.entries.items()
    }
    wrong = {name_of(register) for register, listed in said.items() if listed is (register not in registers)}
    assert wrong == set()
    undecided = {name_of(register) for register, listed in said.items() if listed is None}
    assert undecided == ({f"DEMUX_CCSIDR[{n}]" for n in range(14)} if kernel == "6.1" else set())


def test_everything_has_reason_and_evidence() -> None:
    for entry in BUILTIN.entries.values():
        assert entry.evidence.strip()
        for case in entry.cases:
            assert case.reason.strip()
            assert case.evidence.strip()


def test_a_register_that_may_be_missing_says_what_that_means() -> None:
    sometimes = {
        name_of(register)
        for register, entry in BUILTIN.entries.items()
        if any(listing.kernels.first and listing.feature is None for listing in entry.listing)
    }
    silent = {name for name in sometimes if not any(c.action is CaseAction.ABSENT for c in _entry(name).cases)}
    assert silent == set()


def _entry(name: str) -> Entry:
    entry = BUILTIN.entry(id_of(name))
    assert entry is not None
    return entry


def test_the_first_case_that_holds_decides() -> None:
    entry = _entry("TCR2_EL1")
    mmfr3 = id_of("ID_AA64MMFR3_EL1")
    without, with_ = ({mmfr3: 0, TCR2: 0}, {mmfr3: 1, TCR2: 0})
    found = [entry.case(CaseAction.REMOVE, None, stream, None) for stream in (without, with_)]
    assert [case.verdict for case in found if case] == [Verdict.PROVEN, Verdict.LOSSY]
    assert entry.case(CaseAction.DESTINATION, None, without, None) is None


def test_acceptance_by_kernel() -> None:
    entry = _entry("CLIDR_EL1")
    equal, anything = entry.accepts
    assert entry.accepted(KernelRelease(6, 2)) == (equal,)
    assert entry.accepted(KernelRelease(6, 3)) == (anything,)
    assert entry.accepted(None) == (equal, anything)  # not known: all that any kernel asks for
    assert entry.accepted(KernelRelease(6, 3), "LoC") == ()


def test_rules_as_people_read_them() -> None:
    kernels = KernelRange(KernelRelease(6, 7), None)
    assert str(Accepted(kernels, "N", Accepts.AT_MOST, silent=True)) == (
        "field N: at-most (Linux 6.7 and newer), another is ignored without an error"
    )
    assert str(Accepted(KernelRange(), None, Accepts.EQUAL)) == "equal (every kernel)"
    assert str(Listing(kernels, feature="pmu", sometimes="if it rains")) == (
        "Linux 6.7 and newer: with pmu, if it rains"
    )
    assert _entry("TCR2_EL1").listed == (
        "Linux 6.5 to 6.12: always; Linux 6.13 and newer: if ID_AA64MMFR3_EL1.TCRX != 0"
    )
    assert _entry("DBGDTR_EL0").listed == "never by KVM"


def test_loaders() -> None:
    old, new = BUILTIN.loader((10, 2)), BUILTIN.loader((12, 0))
    assert old is not None
    assert new is not None
    assert (old.longer, old.dropped_above, new.longer, new.dropped_above) == (False, True, True, False)
    assert new.tolerates(TCR2, 5)
    assert new.tolerates(id_of("FW_VENDOR_HYP_BMAP_2"), 0)
    assert not new.tolerates(id_of("FW_VENDOR_HYP_BMAP_2"), 1)
    assert not old.tolerates(TCR2, 0)
    assert BUILTIN.loader(None) is None
    assert BUILTIN.loader((1, 7)) is None


MASKS = b"""
[masks."6.12"]
ID_AA64MMFR0_EL1 = "0xff"
ID_AA64MMFR1_EL1 = "0xf"
[masks."6.16"]
ID_AA64MMFR0_EL1 = "0xf0"
"""


@pytest.mark.parametrize(
    ("kernel", "masks"),
    [
        ((6, 7), {}),
        ((6, 12), {"ID_AA64MMFR0_EL1": 0xFF, "ID_AA64MMFR1_EL1": 0xF}),
        ((6, 14), {"ID_AA64MMFR0_EL1": 0xF0}),
        ((6, 16), {"ID_AA64MMFR0_EL1": 0xF0}),
        ((9, 9), {"ID_AA64MMFR0_EL1": 0xF0}),
    ],
)
def test_masks_of_kernels_between_the_known_ones(kernel: tuple[int, int], masks: dict[str, int]) -> None:
    knowledge = parse_knowledge([("m.toml", MASKS)])
    assert knowledge.writable_masks(KernelRelease(*kernel)) == {id_of(name): mask for name, mask in masks.items()}
