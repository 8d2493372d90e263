"""Reading the knowledge base's files, and how a wrong one is reported."""

from __future__ import annotations

import pytest

from formats.arm64.register_id import id_of
from proxyd.rewrite.knowledge import CaseAction, Knowledge
from proxyd.rewrite.knowledge_file import KnowledgeError, parse_knowledge
from proxyd.rewrite.verdict import Verdict

TCR2 = id_of("TCR2_EL1")


ENTRY = '[[entry]]\nregisters = ["TCR2_EL1"]\nlisted = [{}]\nevidence = "e"\n'
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
        (ENTRY + CASE.replace("proven", "maybe"), "k.toml: Invalid enum value 'maybe'"),
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
        (ENTRY.replace('"e"', '" "'), "k.toml: entry[0].evidence: a sentence expected, found nothing"),
        (ENTRY + CASE + 'value = "0x1"', "k.toml: entry[0].case[0]: value expected with action absent only"),
        (ENTRY.replace("{}", '{ when = "X == 0" }'), "k.toml: entry[0]: k.toml: entry[0].listed: name of a register"),
        ('[[qemu]]\nsince = "x"\nlonger = true\nevidence = "e"', "k.toml: qemu: version of QEMU such as 10.2 expected"),
        ('[feature]\npmu = ["PMCR_EL0.Y"]', "k.toml: feature.pmu: field of PMCR_EL0"),
        ('[masks.new]\nTCR2_EL1 = "0x1"', "k.toml: masks: kernel release such as 6.12 expected, found 'new'"),
    ],
)
def test_a_wrong_file(text: str, message: str) -> None:
    with pytest.raises(KnowledgeError) as caught:
        parse_knowledge([("k.toml", text.encode())])
    assert str(caught.value).startswith(message)


def test_a_case_may_be_about_several_fields() -> None:
    knowledge = parse_knowledge([("k.toml", (ENTRY + CASE + 'fields = ["PIE", "POE"]').encode())])
    entry = knowledge.entry(TCR2)
    assert entry is not None
    assert [(case.field, case.verdict) for case in entry.cases] == [("PIE", Verdict.PROVEN), ("POE", Verdict.PROVEN)]
    assert entry.case(CaseAction.REMOVE, "POE", {}, None) is entry.cases[1]
    assert entry.case(CaseAction.REMOVE, None, {}, None) is None


def test_a_row_of_names() -> None:
    knowledge = parse_knowledge([("k.toml", ENTRY.replace("TCR2_EL1", "DBGBVR{14..15}_EL1").encode())])
    assert list(knowledge.entries) == [id_of("DBGBVR14_EL1"), id_of("DBGBVR15_EL1")]


def test_what_a_version_of_qemu_does() -> None:
    text = """
[[qemu]]
since = "11.1"
longer = true
dropped_above = false
tolerated = [{ register = "TCR2_EL1" }, { register = "FW_VENDOR_HYP_BMAP_2", value = "0x0" }]
evidence = "e"
[feature]
pmu = ["ID_AA64DFR0_EL1.PMUVer"]
"""
    knowledge = parse_knowledge([("k.toml", text.encode())])
    (loader,) = knowledge.loaders
    assert (loader.first, loader.last, loader.longer, loader.dropped_above) == ((11, 1), None, True, False)
    assert dict(loader.tolerated) == {TCR2: None, id_of("FW_VENDOR_HYP_BMAP_2"): 0}
    assert dict(knowledge.fields_of_features) == {"pmu": [(id_of("ID_AA64DFR0_EL1"), "PMUVer")]}


def test_what_absence_meant() -> None:
    absent = CASE.replace("remove", "absent") + 'value = "0x2"\n'
    entry = parse_knowledge([("k.toml", (ENTRY + absent).encode())]).entry(TCR2)
    assert entry is not None
    case = entry.case(CaseAction.ABSENT, None, {}, None)
    assert case is not None
    assert case.value == 2
    assert Knowledge().entry(TCR2) is None
