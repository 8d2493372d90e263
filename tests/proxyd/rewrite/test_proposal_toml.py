"""A proposal written down: what is written can be read."""

from __future__ import annotations

import pytest

from formats.arm64.register_id import id_of
from proxyd.rewrite.draft import DraftCase, DraftRule, Proposal
from proxyd.rewrite.knowledge import CaseAction
from proxyd.rewrite.knowledge_file import parse_knowledge
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.proposal_toml import bits, comments, knowledge_toml, profile_toml
from proxyd.rewrite.rules import Remove, Require, Set, SetBits, parse_bits
from proxyd.rewrite.verdict import Verdict

PSCI, MMFR2, SCTLR2 = map(id_of, ("FW_PSCI_VERSION", "ID_AA64MMFR2_EL1", "SCTLR2_EL1"))
STRANGE = 0x40200000200E0298

RULES = (
    DraftRule(PSCI, "set", "FW_PSCI_VERSION == 3", Verdict.LOSSY, 'it "says" \\ so', ("line \x1b[1m",), (), 0x10001),
    DraftRule(MMFR2, "set-bits", None, Verdict.NEUTRAL, "why", ("a", "b"), ("look",), 2 << 24, 0xF << 24),
    DraftRule(STRANGE, "remove", None, Verdict.PROVEN, "why", ()),
    DraftRule(SCTLR2, "require", "SCTLR2_EL1 == 0", Verdict.LOSSY, "why", ()),
)


def test_a_profile() -> None:
    text = profile_toml(Proposal(RULES, (), ()), "a \x07 title")
    assert text.startswith(
        """\
name = "a ? title"

# seen: line ?[1m
[[rule]]
kind     = "set"
register = "FW_PSCI_VERSION"
value    = "0x10001"
when     = "FW_PSCI_VERSION == 3"
reason   = "it \\"says\\" \\\\ so"
verdict  = "lossy"   # to be argued; until then the register must be allowed by name

# seen: a
# seen: b
# look
[[rule]]
kind     = "set-bits"
register = "ID_AA64MMFR2_EL1"
bits     = "0b0010_xxxx_xxxx_xxxx_xxxx_xxxx_xxxx"
reason   = "why"
verdict  = "neutral"

[[rule]]
kind     = "remove"
register = "0x40200000200e0298"
"""
    )
    set_, set_bits, remove, require = Profile.parse(text.encode(), "p").rules
    assert isinstance(set_, Set)
    assert (set_.value, set_.verdict, set_.reason) == (0x10001, Verdict.LOSSY, 'it "says" \\ so')
    assert isinstance(set_bits, SetBits)
    assert (set_bits.mask, set_bits.value) == (0xF << 24, 2 << 24)
    assert isinstance(remove, Remove)
    assert (remove.register, remove.verdict) == (STRANGE, Verdict.PROVEN)
    assert isinstance(require, Require)


def test_nothing_proposed_is_nothing_written() -> None:
    assert profile_toml(Proposal((), (), ("no rule",)), "t") == ""
    assert knowledge_toml(Proposal(RULES, (), ()), "6.12") == ""


def test_knowledge_with_one_entry_for_a_register() -> None:
    cases = (
        DraftCase(MMFR2, CaseAction.DESTINATION, ("NV", "CCIDX"), None, "to be argued: r", "proposal: e"),
        DraftCase(
            PSCI, CaseAction.DESTINATION, (), "FW_PSCI_VERSION == 3", "to be argued: r", "proposal: e", "at-most"
        ),
        DraftCase(MMFR2, CaseAction.RAISE, ("NV",), None, "to be argued: r", "proposal: e"),
        DraftCase(SCTLR2, None, (), None, "", "", enabled_by="ID_AA64MMFR2_EL1.NV"),
        DraftCase(STRANGE, CaseAction.REMOVE, (), None, "to be argued: r", "proposal: e"),
    )
    text = knowledge_toml(Proposal((), cases, ()), "6.12")
    assert text.count("[[entry]]") == 4
    assert (
        'accepts = [{ since = "6.12", until = "6.12", values = "at-most" }]   # to be argued: on which kernels' in text
    )
    known = parse_knowledge([("k.toml", text.encode())])
    assert [(case.action, case.field) for case in known.entries[MMFR2].cases] == [
        (CaseAction.DESTINATION, "NV"),
        (CaseAction.DESTINATION, "CCIDX"),
        (CaseAction.RAISE, "NV"),
    ]
    assert {case.verdict for entry in known.entries.values() for case in entry.cases} == {Verdict.LOSSY}
    assert str(known.entries[PSCI].cases[0].when) == "FW_PSCI_VERSION == 3"
    hidden = known.entries[SCTLR2].enabled_by
    assert hidden is not None
    assert (hidden.register, hidden.field) == (MMFR2, "NV")
    assert known.entries[STRANGE].listed == "every kernel: to be argued: on which kernels, and when"
    assert (known.entries[STRANGE].evidence, known.entries[SCTLR2].evidence) == ("proposal: e", "to be argued")


def test_knowledge_of_a_kernel_that_is_not_known() -> None:
    cases = (
        DraftCase(PSCI, CaseAction.DESTINATION, (), None, "r", "e", "equal"),
        DraftCase(SCTLR2, None, (), None, "", "", enabled_by="ID_AA64MMFR2_EL1.NV"),
    )
    known = parse_knowledge([("k.toml", knowledge_toml(Proposal((), cases, ()), None).encode())])
    assert len(known.entries[PSCI].accepts) == 1
    assert known.entries[SCTLR2].enabled_by is not None


@pytest.mark.parametrize(
    ("mask", "value", "text"),
    [
        (0xF, 0x1, "0b0001"),
        (0xF << 60, 0x5 << 60, "0b0101" + "_xxxx" * 15),
        (0x12, 0x2, "0bxxx0_xx1x"),
        (0, 0, "0bxxxx"),
    ],
)
def test_bits(mask: int, value: int, text: str) -> None:
    assert bits(mask, value) == text
    assert parse_bits(text) == (mask, value)


def test_comments_fold_between_words() -> None:
    lines = comments(["word " * 40, "x" * 200])
    assert all(line.startswith("#") for line in lines)
    assert len(lines) == 3
    assert lines[2] == "# " + "x" * 200
    assert " ".join(line.removeprefix("#").strip() for line in lines[:2]) == ("word " * 40).strip()
