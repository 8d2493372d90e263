"""Profiles: what is read, and one clear error for what is not accepted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from formats.arm64.register_id import id_of
from proxyd.rewrite.conditions import Condition
from proxyd.rewrite.profile import Profile, ProfileDestination, ProfileError
from proxyd.rewrite.rules import Add, Remove, Require, Set, SetBits
from proxyd.rewrite.verdict import Verdict

GOOD = b"""
name = "7.3 to 6.12"
description = "guests without a PMU"

[[rule]]
kind = "remove"
register = "TCR2_EL1"
when = "ID_AA64MMFR3_EL1.TCRX == 0"
reason = "no FEAT_TCR2"
verdict = "proven"

[[rule]]
kind = "set"
register = "0x6030000000140000"
value = "0x10001"
reason = "the guest calls nothing newer"

[[rule]]
kind = "set-bits"
register = "ID_AA64MMFR2_EL1"
bits = "0b0000_xxxx_xxxx_xxxx_xxxx_xxxx"
reason = "no CCIDX"

[[rule]]
kind = "add"
register = "FW_VENDOR_HYP_BMAP_2"
value = 0
reason = "as before"

[[rule]]
kind = "require"
when = "PMCR_EL0.E == 0"
reason = "the PMU is not in use"
"""


def test_every_kind() -> None:
    profile = Profile.parse(GOOD, "p.toml")
    assert (profile.name, profile.description) == ("7.3 to 6.12", "guests without a PMU")
    assert [type(rule) for rule in profile.rules] == [Remove, Set, SetBits, Add, Require]
    remove, set_, bits, add, require = profile.rules
    assert (remove.register, remove.verdict) == (id_of("TCR2_EL1"), Verdict.PROVEN)
    assert isinstance(set_, Set)
    assert (set_.register, set_.value, set_.verdict) == (id_of("FW_PSCI_VERSION"), 0x10001, Verdict.NEUTRAL)
    assert isinstance(bits, SetBits)
    assert (bits.mask, bits.value) == (0xF00000, 0)
    assert isinstance(add, Add)
    assert add.value == 0
    assert require.register == id_of("PMCR_EL0")


def test_a_profile_without_a_name_is_called_by_its_file() -> None:
    assert Profile.parse(b'[[rule]]\nkind="remove"\nregister="PIR_EL1"\nreason="r"', "p.toml").name == "p.toml"


RULE = '[[rule]]\nkind = "{kind}"\nregister = "TCR2_EL1"\nreason = "r"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[rule", "p.toml: TOML expected: "),
        (
            "rules = 1",
            "p.toml: unknown key rules (accepted: rule, name, description, destination)",
        ),
        ("x = " + "[" * 5000, "p.toml: TOML expected: "),
        (RULE.format(kind="set") + "value = " + "9" * 5000, "p.toml: TOML expected: "),
        ('name = "only"', "p.toml: key rule expected, found none"),
        ("rule = 3", "p.toml: rule: expected array, got int"),
        (
            RULE.format(kind="remove") + "[destination]\ncpu = 'a57'",
            "p.toml: destination: unknown key cpu (accepted: kernel, qemu, accelerator)",
        ),
        (
            RULE.format(kind="remove") + "[destination]\naccelerator = 'hvf'",
            "p.toml: destination.accelerator: invalid enum value 'hvf' (accepted: kvm, tcg)",
        ),
        ("rule = []", "p.toml: rule: 1 to 1024 rules expected, found 0"),
        (
            RULE.format(kind="drop"),
            "p.toml: rule[0].kind: invalid enum value 'drop' (accepted: remove, set, set-bits, add, require)",
        ),
        (
            RULE.format(kind="remove") + "typo = 1",
            "p.toml: rule[0]: unknown key typo (accepted: kind, reason, register, when, value, bits, verdict)",
        ),
        (
            '[[rule]]\nkind="remove"\nregister="TCR2_EL1"',
            "p.toml: rule[0]: key reason expected, found none",
        ),
        (
            RULE.format(kind="remove").replace('"r"', '" "'),
            "p.toml: rule[0].reason: a sentence expected, found nothing",
        ),
        (
            RULE.format(kind="remove").replace("TCR2", "TCR3"),
            "p.toml: rule[0].register: name of a register or its id in hex expected, found 'TCR3_EL1' (did you mean",
        ),
        (
            '[[rule]]\nkind="remove"\nreason="r"',
            "p.toml: rule[0].register: name of a register or its id in hex expected",
        ),
        ('[[rule]]\nkind="require"\nreason="r"', "p.toml: rule[0].register: name of a register"),
        ('[[rule]]\nkind="require"\nreason="r"\nwhen="X == 0"', "p.toml: rule[0].when: name of a register or its id"),
        (RULE.format(kind="remove") + 'when = "X == 0"', "p.toml: rule[0].when: name of a register or its id in hex"),
        (
            '[[rule]]\nkind="require"\nreason="r"\nwhen="destination.PMCR_EL0 == 0"',
            "p.toml: rule[0].register: name of a register or its id in hex expected, found nothing",
        ),
        (
            RULE.format(kind="remove") + "verdict = 'unknown'",
            "p.toml: rule[0].verdict: invalid enum value 'unknown' (accepted: proven, neutral, lossy)",
        ),
        (
            RULE.format(kind="set").replace("TCR2_EL1", "DEMUX_CCSIDR[3]") + "value = 0x1_0000_0000",
            "p.toml: rule[0]: DEMUX_CCSIDR[3] (0x6020000000110003) has 32 bits, found 0x100000000",
        ),
        (RULE.format(kind="require"), "p.toml: rule[0]: require: a condition (when) expected, found none"),
        (
            RULE.format(kind="remove").replace("TCR2_EL1", "TIMER_CNT"),
            "p.toml: rule[0]: TIMER_CNT (0x603000000013df1a) must",
        ),
        (RULE.format(kind="set"), "p.toml: rule[0].value: number of 64 bits expected, found None"),
        (RULE.format(kind="set") + "value = -1", "p.toml: rule[0].value: number of 64 bits expected, found -1"),
        (RULE.format(kind="add") + 'value = "x"', "p.toml: rule[0].value: number of 64 bits expected, found 'x'"),
        (
            RULE.format(kind="remove") + "value = 1",
            "p.toml: rule[0].value: only set and add have a value, found one in remove",
        ),
        (
            RULE.format(kind="set") + 'value=1\nbits="0b1"',
            "p.toml: rule[0].bits: only set-bits has bits, found them in set",
        ),
        (RULE.format(kind="set-bits"), "p.toml: rule[0]: bits such as 0bxxxx_0001 expected"),
    ],
)
def test_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(ProfileError) as caught:
        Profile.parse(text.encode(), "p.toml")
    assert str(caught.value).startswith(message)
    assert caught.value.file == "p.toml"


def test_an_error_in_a_condition_names_its_key() -> None:
    with pytest.raises(ProfileError) as caught:
        Profile.parse((RULE.format(kind="remove") + 'when = "TCR2_EL1 is 0"').encode(), "p.toml")
    assert caught.value.key == "rule[0].when"
    assert str(caught.value) == ("p.toml: rule[0].when: column 1: == != < <= > or >= expected, found 'TCR2_EL1 is 0'")


def test_what_a_profile_was_written_for() -> None:
    text = RULE.format(kind="remove") + "[destination]\nkernel = '6.12'\naccelerator = 'kvm'"
    assert Profile.parse(text.encode(), "p.toml").destination == ProfileDestination(kernel="6.12", accelerator="kvm")
    assert Profile.parse(GOOD, "p.toml").destination is None


PROFILES = sorted((Path(__file__).parents[2] / "qemu" / "profiles").glob("*.toml"))


def test_there_are_profiles_of_the_tcg_tests() -> None:
    assert PROFILES


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_of_the_tcg_tests_are_valid(path: Path) -> None:
    profile = Profile.parse(path.read_bytes(), path.name)
    assert all(rule.reason for rule in profile.rules)


MANUAL = (Path(__file__).parents[3] / "docs" / "profiles.md").read_text(encoding="utf-8")


def test_the_manual_s_example_is_a_profile() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", MANUAL, re.DOTALL)
    profile = Profile.parse(example.encode(), "profiles.md")
    assert [type(rule) for rule in profile.rules] == [Remove, Set]


def test_the_manual_s_conditions_are_conditions() -> None:
    (conditions,) = re.findall(r"## Conditions\n\n```\n(.*?)```", MANUAL, re.DOTALL)
    for line in conditions.splitlines():
        assert Condition.parse(line, "profiles.md").registers


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        (0, "kind = 'remove'\nregister = 'TCR3_EL1'"),
        (2, "kind = 'remove'\nregister = 'TCR2_EL1'\nwhen = 'TCR2_EL1 is 0'"),
        (3, "kind = 'drop'"),
    ],
)
def test_the_manual_s_errors_are_what_is_said(number: int, rule: str) -> None:
    good = RULE.format(kind="remove") * number
    with pytest.raises(ProfileError) as caught:
        Profile.parse(f"{good}[[rule]]\nreason = 'r'\n{rule}".encode(), "profile.toml")
    assert str(caught.value) in MANUAL.splitlines()
