"""The knowledge base: the one that ships, and how a wrong one is reported."""

from __future__ import annotations

import pytest

from formats.arm64.register_id import id_of
from proxyd.rewrite.kernel import KernelRelease
from proxyd.rewrite.knowledge import Accepts, CaseAction, Knowledge, KnowledgeError
from proxyd.rewrite.verdict import Verdict

TCR2, CLIDR = id_of("TCR2_EL1"), id_of("CLIDR_EL1")


def test_the_registers_of_the_measured_cases_have_entries() -> None:
    knowledge = Knowledge.builtin()
    names = ["TCR2_EL1", "PIRE0_EL1", "PIR_EL1", "FW_VENDOR_HYP_BMAP_2", "CLIDR_EL1", "PMMIR_EL1", "0x40200000200e0298"]
    names += [f"DEMUX_CCSIDR[{n}]" for n in range(14)]
    for name in names:
        entry = knowledge.entry(id_of(name))
        assert entry is not None, name
        assert entry.cases, name
    assert knowledge.entry(id_of("TPIDR_EL1")) is None
    assert knowledge.newest_kernel == KernelRelease(7, 3)
    assert Knowledge.builtin() is knowledge


def test_every_case_has_reason_and_evidence() -> None:
    for entry in Knowledge.builtin().entries.values():
        assert entry.listed
        for case in entry.cases:
            assert case.reason.strip()
            assert case.evidence.strip()


def test_the_first_case_that_holds_decides() -> None:
    entry = Knowledge.builtin().entry(TCR2)
    assert entry is not None
    mmfr3 = id_of("ID_AA64MMFR3_EL1")
    without, with_ = ({mmfr3: 0, TCR2: 0}, {mmfr3: 1, TCR2: 0})
    found = [entry.case(CaseAction.REMOVE, None, stream, None) for stream in (without, with_)]
    assert [case.verdict for case in found if case] == [Verdict.PROVEN, Verdict.LOSSY]
    assert entry.case(CaseAction.DESTINATION, None, without, None) is None


def test_acceptance_by_kernel() -> None:
    entry = Knowledge.builtin().entry(CLIDR)
    assert entry is not None
    assert entry.acceptance(KernelRelease(6, 2)) is Accepts.EQUAL
    assert entry.acceptance(KernelRelease(6, 3)) is Accepts.ANY
    assert entry.acceptance(None) is Accepts.EQUAL  # not known: the strictest
    assert entry.acceptance(KernelRelease(6, 3), "LoC") is None
    assert entry.acceptance(None, "LoC") is None


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
    knowledge = Knowledge.parse([("m.toml", MASKS)])
    assert knowledge.writable_masks(KernelRelease(*kernel)) == {id_of(name): mask for name, mask in masks.items()}


ENTRY = '[[entry]]\nregisters = ["TCR2_EL1"]\nlisted = "always"\n'
CASE = '[[entry.case]]\naction = "remove"\nverdict = "proven"\nreason = "r"\nevidence = "e"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "k.toml: "),
        (ENTRY + "typo = 1", "k.toml: Object contains unknown field `typo`"),
        (ENTRY + ENTRY, "k.toml: entry[1]: ['TCR2_EL1'] has an entry already"),
        (ENTRY.replace("TCR2", "TCR3"), "k.toml: entry[0]: name of a register or its id in hex expected"),
        (ENTRY + CASE.replace('"r"', '""'), "k.toml: entry[0].case[0].reason: a sentence expected, found nothing"),
        (ENTRY + CASE + 'when = "X == 0"', "k.toml: entry[0]: k.toml: entry[0].case[0].when: name of a register"),
        (ENTRY + CASE + 'field = "X"', "k.toml: entry[0]: field of TCR2_EL1"),
        (ENTRY + CASE + 'fields = ["PIE", "X"]', "k.toml: entry[0]: field of TCR2_EL1"),
        (
            ENTRY + CASE + 'fields = ["PIE"]\nfield = "PIE"',
            "k.toml: entry[0].case[0]: field or fields expected, found both",
        ),
        (ENTRY + CASE.replace("proven", "unknown"), "k.toml: Invalid enum value 'unknown'"),
        (ENTRY + 'accepts = [{ values = "any", field = "X" }]', "k.toml: entry[0]: field of TCR2_EL1"),
        (
            ENTRY + 'accepts = [{ values = "any", since = "x" }]',
            "k.toml: entry[0]: kernel release such as 6.12 expected",
        ),
        (ENTRY + 'enabled_by = { field = "TCR2_EL1.X", since = "6.13" }', "k.toml: entry[0]: field of TCR2_EL1"),
        (
            ENTRY + CASE + 'repair = { complement_of = "PIR_EL1", since = "6.7", until = "6.12" }',
            "k.toml: entry[0].case[0]: a table repair expected with action repair, and only with it",
        ),
        (ENTRY + CASE.replace("remove", "repair"), "k.toml: entry[0].case[0]: a table repair expected"),
        ('[masks.new]\nTCR2_EL1 = "0x1"', "k.toml: masks: kernel release such as 6.12 expected, found 'new'"),
    ],
)
def test_a_wrong_file(text: str, message: str) -> None:
    with pytest.raises(KnowledgeError) as caught:
        Knowledge.parse([("k.toml", text.encode())])
    assert str(caught.value).startswith(message)


def test_a_case_may_be_about_several_fields() -> None:
    knowledge = Knowledge.parse([("k.toml", (ENTRY + CASE + 'fields = ["PIE", "POE"]').encode())])
    entry = knowledge.entry(TCR2)
    assert entry is not None
    assert [(case.field, case.verdict) for case in entry.cases] == [("PIE", Verdict.PROVEN), ("POE", Verdict.PROVEN)]
    assert entry.case(CaseAction.REMOVE, "POE", {}, None) is entry.cases[1]
    assert entry.case(CaseAction.REMOVE, None, {}, None) is None
