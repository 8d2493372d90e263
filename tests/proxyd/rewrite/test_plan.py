"""The plan, against what real kernels did with the recorded streams, and rule by rule."""

from __future__ import annotations

from functools import cache
from typing import Literal

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of, name_of
from formats.events import DeviceTail
from formats.parser import StreamParser
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.knowledge_file import parse_knowledge
from proxyd.rewrite.plan import Action, Destination, Notice, Outcome, Plan, VcpuRegisters, make_plan
from proxyd.rewrite.policy import StreamLimits
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.tail import registers_of
from proxyd.rewrite.verdict import Verdict
from tests import recorded

KNOWLEDGE = Knowledge.builtin()
N1, V1, MAX = "neoverse-n1", "neoverse-v1", "max"


@cache
def vcpus(name: str) -> tuple[VcpuRegisters, ...]:
    parser = StreamParser()
    (tail,) = [event for event in parser.feed(recorded.load(name)) if isinstance(event, DeviceTail)]
    return registers_of(tail, StreamLimits())


def host(kernel: str, cpu: str) -> HostDescription:
    return HostDescription.parse(recorded.host_json(kernel, cpu), "host")


def plan(source: str, destination: str, cpu: str, what: str = "plain-smp1", qemu: str = "10.0.13") -> Plan:
    name = f"{source}-{qemu}-{cpu}-{what}"
    return make_plan(vcpus(name), Destination(host(destination, cpu)), KNOWLEDGE)


def changes(result: Plan) -> dict[str, Verdict]:
    return {change.target: change.verdict for change in result.changes}


def refused(result: Plan) -> set[str]:
    return {
        name_of(refusal.register or 0) + (f".{refusal.field}" if refusal.field else "") for refusal in result.refusals
    }


# What happened when these streams were loaded as they are, on the real kernel under QEMU 10.0.
LOADED_AS_THEY_ARE = [
    (N1, "6.18", "6.19"), (N1, "6.18", "7.3"), (N1, "6.19", "7.3"),
    (V1, "6.18", "7.3"), (V1, "6.19", "7.0"),
    (MAX, "6.18", "6.17"), (MAX, "6.18", "6.19"), (MAX, "6.18", "7.2"),
]  # fmt: skip


@pytest.mark.parametrize(("cpu", "source", "destination"), LOADED_AS_THEY_ARE)
def test_what_loads_as_it_is_stays_as_it_is(cpu: str, source: str, destination: str) -> None:
    result = plan(source, destination, cpu)
    assert (result.outcome, changes(result), refused(result)) == (Outcome.LOADS_AS_IS, {}, set())


FEATURELESS = {"TCR2_EL1": Verdict.PROVEN, "PIRE0_EL1": Verdict.PROVEN, "PIR_EL1": Verdict.PROVEN}
NO_CCIDX = {
    "DEMUX_CCSIDR[0]": Verdict.NEUTRAL,
    "DEMUX_CCSIDR[1]": Verdict.NEUTRAL,
    "DEMUX_CCSIDR[2]": Verdict.NEUTRAL,
    "ID_MMFR4_EL1.CCIDX": Verdict.NEUTRAL,
    "ID_AA64MMFR2_EL1.CCIDX": Verdict.NEUTRAL,
}
RAISED = {
    "ID_AA64MMFR3_EL1.TCRX": Verdict.NEUTRAL,
    "ID_AA64MMFR3_EL1.S1PIE": Verdict.NEUTRAL,
    "ID_AA64MMFR3_EL1.SCTLRX": Verdict.NEUTRAL,
    "ID_AA64PFR2_EL1.FPMR": Verdict.NEUTRAL,
}
# Linux 6.12 takes these values and loses them, unless it gets the complement in the CLR register.
KEPT = dict.fromkeys(("PMCNTENCLR_EL0", "PMINTENCLR_EL1", "PMOVSCLR_EL0"), Verdict.NEUTRAL)
# What the destination takes, and replaces by its own without an error: sent as it will be, and named.
NO_CODES = dict.fromkeys(("PMCR_EL0.IDCODE", "PMCR_EL0.IMP"), Verdict.NEUTRAL)
NO_NV = {"ID_AA64MMFR2_EL1.NV": Verdict.NEUTRAL}
WITH_ATS1A = {"ID_AA64ISAR2_EL1.ATS1A": Verdict.NEUTRAL}
NEWER = ("6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3")

# What failed as it is, and loaded with these changes.
LOADED_REWRITTEN = [
    *[(N1, "6.12", newer, FEATURELESS) for newer in NEWER],
    *[(V1, "6.12", newer, FEATURELESS | NO_NV) for newer in NEWER],
    (N1, "6.1", "6.12", KEPT | NO_CODES),
    (N1, "6.1", "7.3", NO_CODES),
    (V1, "6.1", "6.12", NO_CCIDX | KEPT | NO_CODES),
    (V1, "6.1", "7.3", NO_CCIDX | NO_NV | NO_CODES),
    (MAX, "6.12", "6.16", NO_NV),
    *[(MAX, "6.12", newer, {"ID_AA64MMFR3_EL1.SCTLRX": Verdict.NEUTRAL} | NO_NV) for newer in NEWER[1:-1]],
    (MAX, "6.12", "7.3", {"ID_AA64MMFR3_EL1.SCTLRX": Verdict.NEUTRAL} | NO_NV | WITH_ATS1A),
    (MAX, "6.18", "7.3", WITH_ATS1A),
    (
        MAX,
        "6.1",
        "6.12",
        {"ID_AA64MMFR1_EL1.HCX": Verdict.NEUTRAL, "ID_AA64PFR2_EL1.FPMR": Verdict.NEUTRAL} | KEPT | NO_CODES,
    ),
    (MAX, "6.1", "7.3", RAISED | NO_NV | NO_CODES | WITH_ATS1A),
    (N1, "7.3", "7.2", {"PMMIR_EL1": Verdict.PROVEN}),
    (N1, "7.3", "6.16", {"PMMIR_EL1": Verdict.PROVEN}),
    (MAX, "7.3", "7.2", {"PMMIR_EL1": Verdict.PROVEN}),
]


@pytest.mark.parametrize(("cpu", "source", "destination", "expected"), LOADED_REWRITTEN)
def test_what_failed_is_rewritten(cpu: str, source: str, destination: str, expected: dict[str, Verdict]) -> None:
    result = plan(source, destination, cpu)
    assert (result.outcome, changes(result), refused(result)) == (Outcome.LOADS_REWRITTEN, expected, set())
    # The result fits: its ids are the destination's, and planning it again changes nothing.
    again = make_plan(result.rewritten, Destination(host(destination, cpu)), KNOWLEDGE)
    assert again.outcome is Outcome.LOADS_AS_IS
    for vcpu in result.rewritten:
        assert set(vcpu.registers) <= set(host(destination, cpu).registers)


# What failed, and is refused: the guest might notice, or nothing is known.
REFUSED = [
    (N1, "6.18", "6.12", {"FW_PSCI_VERSION"}),
    (N1, "7.3", "6.12", {"FW_PSCI_VERSION"}),
    (V1, "7.3", "6.12", {"FW_PSCI_VERSION"}),
    (MAX, "6.18", "6.16", {"ID_AA64MMFR3_EL1.SCTLRX", "SCTLR2_EL1"}),
    (MAX, "7.3", "7.1", {"ID_AA64ISAR2_EL1.ATS1A"}),
    (MAX, "7.3", "6.18", {"ID_AA64ISAR2_EL1.ATS1A"}),
]


@pytest.mark.parametrize(("cpu", "source", "destination", "expected"), REFUSED)
def test_what_may_be_noticed_is_refused(cpu: str, source: str, destination: str, expected: set[str]) -> None:
    result = plan(source, destination, cpu)
    assert (result.outcome, refused(result)) == (Outcome.REFUSED, expected)


def test_a_lossy_change_needs_the_register_to_be_allowed_by_name() -> None:
    psci = id_of("FW_PSCI_VERSION")
    name = f"7.3-10.0.13-{N1}-plain-smp1"
    destination = Destination(host("6.12", N1))
    result = make_plan(vcpus(name), destination, KNOWLEDGE)
    assert str(result.refusals[0]) == (
        "vcpu 0: FW_PSCI_VERSION (0x6030000000140000) = 0x10003, 0x10001 at the destination: lossy: "
        "calls of the newer PSCI version vanish under a guest that found them at boot (1.3: SYSTEM_OFF2; 1.1: "
        'SYSTEM_RESET2, SYSTEM_SUSPEND) (allow = ["FW_PSCI_VERSION"] accepts that)'
    )
    assert make_plan(vcpus(name), destination, KNOWLEDGE, frozenset({id_of("TCR2_EL1")})).outcome is Outcome.REFUSED
    allowed = make_plan(vcpus(name), destination, KNOWLEDGE, frozenset({psci}))
    assert allowed.outcome is Outcome.LOADS_REWRITTEN
    (change,) = [change for change in allowed.changes if change.register == psci]
    assert (change.old, change.new, change.verdict, change.allowed) == (0x10003, 0x10001, Verdict.LOSSY, True)
    assert allowed.worst is Verdict.LOSSY
    assert plan("6.18", "7.3", N1).worst is None


def test_all_vcpus_of_a_guest_are_planned_alike() -> None:
    result = plan("6.12", "7.3", V1, "full-smp2")
    assert [vcpu.vcpu for vcpu in result.vcpus] == [0, 1]
    assert sorted({(change.vcpu, change.target) for change in result.changes}) == [
        (vcpu, name) for vcpu in (0, 1) for name in ("ID_AA64MMFR2_EL1.NV", "PIRE0_EL1", "PIR_EL1", "TCR2_EL1")
    ]


@pytest.mark.parametrize("qemu", ["7.2", "10.0.13", "11.1.3"])
def test_streams_of_every_qemu(qemu: str) -> None:
    assert changes(plan("6.12", "7.3", N1, qemu=qemu)) == FEATURELESS


def test_what_the_destination_adds_is_told() -> None:
    result = plan("6.12", "7.3", N1)
    told = {name_of(notice.register or 0): notice.text for notice in result.notices}
    assert told == {
        "PMMIR_EL1": (
            "not in the stream: 0 on this host, and that is what the guest read on a kernel that does not list it"
        ),
        "FW_VENDOR_HYP_BMAP_2": (
            "not in the stream: 0, the destination's own value, means what the source's kernel did: none of the "
            "register's hypercalls is offered"
        ),
    }


# Rule by rule, on lists of a few registers.

TCR2, MMFR3, PSCI, TPIDR = (id_of(name) for name in ("TCR2_EL1", "ID_AA64MMFR3_EL1", "FW_PSCI_VERSION", "TPIDR_EL1"))


def one(registers: dict[int, int], vcpu: int = 0) -> VcpuRegisters:
    return VcpuRegisters(vcpu, CpregList(registers))


def small_host(
    registers: dict[int, int], kernel: str | None = "7.3", pmu_writes: Literal["stored", "as-guest"] | None = None
) -> HostDescription:
    return HostDescription(name="h", registers=CpregList(registers), kernel=kernel, pmu_writes=pmu_writes)


def profile(text: str) -> Profile:
    return Profile.parse(text.encode(), "p.toml")


def rule(kind: str, register: str, more: str = "") -> str:
    return f'[[rule]]\nkind="{kind}"\nregister="{register}"\nreason="because"\n{more}\n'


def test_an_unknown_register_is_refused_by_id_and_operands() -> None:
    unknown = 0x603000000013FFF8
    result = make_plan([one({unknown: 1})], Destination(small_host({TPIDR: 0})), KNOWLEDGE)
    assert str(result.refusals[0]) == (
        "vcpu 0: op0:3 op1:7 crn:15 crm:15 op2:0 (0x603000000013fff8) = 0x1: unknown: "
        "the destination does not list it, and nothing is known of it"
    )
    known = make_plan([one({MMFR3: 0x8})], Destination(small_host({TPIDR: 0})), KNOWLEDGE)
    assert known.refusals[0].reason == "the destination does not list it, and no known case covers it"


def test_a_profile_alone_is_carried_out_as_written() -> None:
    text = (
        rule("remove", "TCR2_EL1")
        + rule("set", "FW_PSCI_VERSION", 'value="0x10001"')
        + rule("add", "TPIDR_EL1", "value=7")
    )
    result = make_plan([one({TCR2: 0, PSCI: 0x10003})], Destination(profile=profile(text)), KNOWLEDGE)
    assert result.outcome is Outcome.LOADS_REWRITTEN
    assert dict(result.rewritten[0].registers) == {PSCI: 0x10001, TPIDR: 7}
    assert [str(change) for change in result.changes] == [
        "vcpu 0: TCR2_EL1 (0x603000000013c103) removed (was 0x0), neutral: because",
        "vcpu 0: FW_PSCI_VERSION (0x6030000000140000) 0x10003 -> 0x10001, neutral: because",
        "vcpu 0: TPIDR_EL1 (0x603000000013c684) added as 0x7, neutral: because",
    ]
    assert {change.rule for change in result.changes} == {"profile rule[0]", "profile rule[1]", "profile rule[2]"}
    again = make_plan(result.rewritten, Destination(profile=profile(text)), KNOWLEDGE)
    assert again.outcome is Outcome.LOADS_AS_IS


def test_a_rule_whose_condition_does_not_hold_does_nothing() -> None:
    text = rule("remove", "TCR2_EL1", 'when="TCR2_EL1 == 1"')
    result = make_plan([one({TCR2: 0})], Destination(profile=profile(text)), KNOWLEDGE)
    assert (result.outcome, result.changes) == (Outcome.LOADS_AS_IS, ())


def test_a_lossy_rule_needs_to_be_allowed() -> None:
    text = rule("remove", "TCR2_EL1", 'verdict="lossy"')
    result = make_plan([one({TCR2: 1})], Destination(profile=profile(text)), KNOWLEDGE)
    assert [refusal.verdict for refusal in result.refusals] == [Verdict.LOSSY]
    allowed = make_plan([one({TCR2: 1})], Destination(profile=profile(text)), KNOWLEDGE, frozenset({TCR2}))
    assert allowed.outcome is Outcome.LOADS_REWRITTEN


def test_require_refuses_the_guest() -> None:
    text = '[[rule]]\nkind="require"\nwhen="TCR2_EL1 == 0"\nreason="it must be off"\n'
    assert make_plan([one({TCR2: 0})], Destination(profile=profile(text)), KNOWLEDGE).outcome is Outcome.LOADS_AS_IS
    result = make_plan([one({TCR2: 5})], Destination(profile=profile(text)), KNOWLEDGE)
    assert str(result.refusals[0]) == (
        "vcpu 0: TCR2_EL1 (0x603000000013c103) = 0x5: lossy: the profile requires TCR2_EL1 == 0: it must be off"
    )


def test_rules_that_contradict_one_another() -> None:
    text = rule("set", "TCR2_EL1", "value=1") + rule("set", "TCR2_EL1", "value=2")
    result = make_plan([one({TCR2: 0})], Destination(profile=profile(text)), KNOWLEDGE)
    assert result.refusals[0].reason == "profile rule[1] contradicts an earlier rule for the same register"
    twice = rule("set", "TCR2_EL1", "value=1") * 2
    agreed = make_plan([one({TCR2: 0})], Destination(profile=profile(twice)), KNOWLEDGE)
    assert (agreed.outcome, len(agreed.changes)) == (Outcome.LOADS_REWRITTEN, 1)


def test_a_profile_goes_before_the_host_description() -> None:
    destination = Destination(small_host({PSCI: 0x10001}), profile(rule("set", "FW_PSCI_VERSION", "value=0x10001")))
    result = make_plan([one({PSCI: 0x10003})], destination, KNOWLEDGE)
    assert [(change.action, change.rule) for change in result.changes] == [(Action.SET, "profile rule[0]")]


def test_vcpus_must_not_end_with_different_lists() -> None:
    text = rule("remove", "TCR2_EL1", 'when="TCR2_EL1 == 0"')
    result = make_plan([one({TCR2: 0}), one({TCR2: 1}, 1)], Destination(profile=profile(text)), KNOWLEDGE)
    assert str(result.refusals[0]) == (
        "vcpu 1: TCR2_EL1 (0x603000000013c103): unknown: would be removed or added on vcpu 0 or on this one, "
        "but not on both"
    )


def test_a_field_that_nobody_may_raise_is_refused() -> None:
    mask = {MMFR3: 0xF0FFF}
    por = id_of("POR_EL1")
    description = HostDescription(
        name="h", registers=CpregList({MMFR3: 1 << 16, por: 0}), kernel="7.3", writable_masks=mask
    )
    result = make_plan([one({MMFR3: 0})], Destination(description), KNOWLEDGE)
    assert str(result.refusals[0]) == (
        "vcpu 0: ID_AA64MMFR3_EL1 (0x603000000013c03b) field S1POE = 0x0, 0x1 at the destination: unknown: "
        "while it is off, the destination's kernel hides POR_EL1 and QEMU's load fails"
    )


def test_registers_that_the_stream_lacks_altogether_enable_nothing() -> None:
    result = make_plan([one({TPIDR: 1})], Destination(small_host({TPIDR: 0, TCR2: 0})), KNOWLEDGE)
    assert result.outcome is Outcome.LOADS_AS_IS
    assert [str(notice) for notice in result.notices] == [
        (
            "vcpu 0: TCR2_EL1 (0x603000000013c103): not in the stream: the source had no such register, and the "
            "destination's holds its reset value, 0: nothing is turned on"
        )
    ]


def test_what_the_destination_would_make_up_is_refused_unless_it_is_known() -> None:
    timer = id_of("TIMER_CNT")
    lost = make_plan([one({TPIDR: 1})], Destination(small_host({TPIDR: 0, timer: 5, MMFR3: 3})), KNOWLEDGE)
    assert [str(refusal) for refusal in lost.refusals] == [
        (
            "vcpu 0: ID_AA64MMFR3_EL1 (0x603000000013c03b), 0x3 at the destination: unknown: not in the stream: "
            "the guest would go on with a value that the destination makes up"
        ),
        (
            "vcpu 0: TIMER_CNT (0x603000000013df1a), 0x5 at the destination: unknown: not in the stream: "
            "the guest's time would jump to what the destination makes up, and its timer would not come"
        ),
    ]
    tcg = HostDescription(name="h", registers=CpregList({TPIDR: 0, MMFR3: 3}), accelerator="tcg")
    plain = make_plan([one({TPIDR: 1})], Destination(tcg), KNOWLEDGE)
    assert plain.outcome is Outcome.LOADS_AS_IS
    assert plain.notices[0].text == "not in the stream: the destination keeps its own value, 0x3"


def test_what_the_source_meant_by_leaving_a_register_out_is_added() -> None:
    result = make_plan([one({TPIDR: 1})], Destination(small_host({TPIDR: 0, PSCI: 0x10003})), KNOWLEDGE)
    (change,) = result.changes
    assert (change.action, change.register, change.new, change.verdict) == (Action.ADD, PSCI, 2, Verdict.NEUTRAL)
    assert result.rewritten[0].registers[PSCI] == 2


def test_an_absence_that_loses_something_may_be_allowed() -> None:
    text = b"""
[[entry]]
registers = ["TCR2_EL1"]
listed = [{}]
evidence = "e"
[[entry.case]]
action = "absent"
verdict = "lossy"
reason = "gone"
evidence = "e"
"""
    knowledge = parse_knowledge([("k.toml", text)])
    destination = Destination(small_host({TPIDR: 0, TCR2: 0}))
    refused_ = make_plan([one({TPIDR: 1})], destination, knowledge)
    assert refused_.refusals[0].reason == 'not in the stream: gone (allow = ["TCR2_EL1"] accepts that)'
    allowed = make_plan([one({TPIDR: 1})], destination, knowledge, frozenset({TCR2}))
    assert [notice.text for notice in allowed.notices if notice.register] == ["not in the stream: gone"]


PMU = {id_of(name): value for name, value in {"PMCNTENSET_EL0": 0x80000001, "PMCNTENCLR_EL0": 0x80000001}.items()}


SET, CLR = id_of("PMCNTENSET_EL0"), id_of("PMCNTENCLR_EL0")
# The vCPU that the destination offers has six counters, and the guest uses one of them.
PMCR = id_of("PMCR_EL0")
OWN = dict.fromkeys(PMU, 0) | {PMCR: 0x3000}
GUEST = PMU | {PMCR: 0x3001}
AS_IT_IS, COMPLEMENT, IN_DOUBT = 0x80000001, 0x7FFFFFFE, None


@pytest.mark.parametrize(
    ("kernel", "probed", "sent"),
    [
        ("6.6.50", None, AS_IT_IS),
        ("6.7.1", None, COMPLEMENT),
        ("6.12.107+deb13-cloud-arm64", None, COMPLEMENT),
        ("6.12.108", None, IN_DOUBT),  # newer than what is known: the same change might be the loss
        ("6.12", None, IN_DOUBT),
        ("6.12.0-55.9.1.el10_0.aarch64", None, IN_DOUBT),  # who knows what was backported
        ("6.8.0-31-generic", None, IN_DOUBT),
        ("6.13.1", None, AS_IT_IS),
        (None, None, AS_IT_IS),
        # A probe has tried it.
        ("6.8.0-31-generic", "stored", AS_IT_IS),
        ("6.8.0-31-generic", "as-guest", COMPLEMENT),
        ("6.12.107", "stored", AS_IT_IS),
        (None, "as-guest", COMPLEMENT),
    ],
)
def test_enabled_counters_survive_a_kernel_that_clears_what_it_restores(
    kernel: str | None, probed: Literal["stored", "as-guest"] | None, sent: int | None
) -> None:
    """What the kernel does with it, as measured: (old | SET) & ~CLR."""
    destination = Destination(small_host(OWN, kernel, probed))
    result = make_plan([one(GUEST)], destination, KNOWLEDGE)
    after = result.rewritten[0].registers
    if sent is IN_DOUBT:
        assert [str(refusal) for refusal in result.refusals] == [
            (
                "vcpu 0: PMCNTENCLR_EL0 (0x603000000013dce2) = 0x80000001: lossy: PMCNTENSET_EL0 is lost if this "
                "kernel is as Linux 6.7 to 6.12.107, and its release does not tell: a description by proxyd probe does "
                '(allow = ["PMCNTENCLR_EL0"] accepts that)'
            )
        ]
        allowed = make_plan([one(GUEST)], destination, KNOWLEDGE, frozenset({CLR}))
        assert (allowed.outcome, len(allowed.notices)) == (Outcome.LOADS_AS_IS, 1)
        off = make_plan([one(GUEST | {PMCR: 0x3000})], destination, KNOWLEDGE)
        assert (off.outcome, off.notices) == (allowed.outcome, allowed.notices)
        unused = make_plan([one(GUEST | dict.fromkeys(PMU, 0))], destination, KNOWLEDGE)
        assert unused.outcome is Outcome.LOADS_AS_IS
        return
    assert (after[SET], after[CLR]) == (0x80000001, sent)
    if result.changes:
        for old in (0, 0x8000001E, 0xFFFFFFFF):
            assert (old | after[SET]) & ~after[CLR] == 0x80000001
        assert make_plan(result.rewritten, destination, KNOWLEDGE).outcome is Outcome.LOADS_AS_IS
    assert (result.refusals, result.notices) == ((), ())


def test_the_other_register_decides_what_is_repaired() -> None:
    destination = Destination(small_host({CLR: 0, id_of("PMCR_EL0"): 0x3000}, "6.7.1"))
    guest = one({CLR: 1, id_of("PMCR_EL0"): 0x3000})
    assert make_plan([guest], destination, KNOWLEDGE).changes == ()


def test_a_counter_that_the_destination_has_not_got() -> None:
    pmcr = id_of("PMCR_EL0")
    result = make_plan([one({pmcr: 0x4000})], Destination(small_host({pmcr: 0x3000})), KNOWLEDGE)
    assert result.refusals[0].reason.startswith("the guest found more event counters at boot")
    fewer = make_plan([one({pmcr: 0x2000})], Destination(small_host({pmcr: 0x3000})), KNOWLEDGE)
    assert fewer.outcome is Outcome.LOADS_AS_IS
    stray = make_plan([one({pmcr: 0x3000, SET: 0x41})], Destination(small_host({pmcr: 0x3000, SET: 0})), KNOWLEDGE)
    assert [(change.old, change.new) for change in stray.changes] == [(0x40, 0)]
    assert stray.rewritten[0].registers[SET] == 0x1


def test_a_kernel_newer_than_the_knowledge_base_is_reported() -> None:
    result = make_plan([one({TPIDR: 1})], Destination(small_host({TPIDR: 0}, "9.9.1")), KNOWLEDGE)
    assert [str(notice) for notice in result.notices] == [
        "the destination's Linux 9.9 is newer than what is known: the rules for 7.3 apply"
    ]
    assert isinstance(result.notices[0], Notice)


def test_no_vcpus_no_plan() -> None:
    assert make_plan([], Destination(), KNOWLEDGE).outcome is Outcome.LOADS_AS_IS


def test_what_no_allow_list_permits() -> None:
    mmfr0 = id_of("ID_AA64MMFR0_EL1")
    result = make_plan([one({mmfr0: 0x6})], Destination(small_host({mmfr0: 0x5})), KNOWLEDGE)
    assert str(result.refusals[0]) == (
        "vcpu 0: ID_AA64MMFR0_EL1 (0x603000000013c038) field PARANGE = 0x6, 0x5 at the destination: unknown: "
        "the guest set its page tables up for another size of physical addresses, of ASIDs or of granules than this "
        "host has"
    )
    # Not even leave to lose lets it pass.
    everything = frozenset({mmfr0})
    allowed = make_plan([one({mmfr0: 0x6})], Destination(small_host({mmfr0: 0x5})), KNOWLEDGE, everything)
    assert allowed.outcome is Outcome.REFUSED
    nameless = id_of("ID_UNALLOCATED_7_7")
    unheard = make_plan([one({nameless: 0x6})], Destination(small_host({nameless: 0x5})), KNOWLEDGE)
    assert unheard.refusals[0].reason == "the destination takes only its own value, and no known case covers it"


def test_what_the_guest_reads_otherwise_than_the_list_says_is_told() -> None:
    ctr, ptimer = id_of("CTR_EL0"), id_of("PTIMER_CTL")
    destination = Destination(small_host({ctr: 1, ptimer: 0}))
    result = make_plan([one({ctr: 1})], destination, KNOWLEDGE)
    assert any(notice.text.startswith("the guest may read IDC as 0 on its source") for notice in result.notices)


def test_a_guest_without_a_pmu_meets_a_vcpu_without_one() -> None:
    dfr0, pmcr = id_of("ID_AA64DFR0_EL1"), id_of("PMCR_EL0")
    destination = Destination(small_host({dfr0: 0x506, pmcr: 0x3000}, "6.1"))
    result = make_plan([one({dfr0: 0x6})], destination, KNOWLEDGE)
    assert (result.outcome, result.refusals) == (Outcome.LOADS_AS_IS, ())
    assert [notice.text for notice in result.notices] == [
        (
            "the guest has no pmu, and the destination is described with it: its registers without are derived, "
            "not read (proxyd probe reads them)"
        )
    ]


ISAR2, ATS1A, S1PIE = id_of("ID_AA64ISAR2_EL1"), 1 << 60, 0x100


def test_a_feature_that_the_destination_hides_without_another_one() -> None:
    guest = one({MMFR3: S1PIE, ISAR2: 0})
    destination = Destination(small_host({MMFR3: S1PIE, ISAR2: ATS1A}))
    result = make_plan([guest], destination, KNOWLEDGE)
    assert changes(result) == {"ID_AA64ISAR2_EL1.ATS1A": Verdict.NEUTRAL}
    assert make_plan(result.rewritten, destination, KNOWLEDGE).outcome is Outcome.LOADS_AS_IS
    older = make_plan([guest], Destination(small_host({MMFR3: S1PIE, ISAR2: ATS1A}, "7.2")), KNOWLEDGE)
    assert older.outcome is Outcome.LOADS_AS_IS
    # A CPU that has not got the other one: the guest would lose what it has.
    without = make_plan([guest], Destination(small_host({MMFR3: S1PIE, ISAR2: 0})), KNOWLEDGE)
    assert refused(without) == {"ID_AA64MMFR3_EL1.S1PIE"}
    assert without.refusals[0].verdict is Verdict.LOSSY
    # Nothing is known of the field that would have to be raised.
    bare = parse_knowledge(
        [
            (
                "k.toml",
                b"""
[[entry]]
registers = ["ID_AA64MMFR3_EL1"]
listed = [{}]
needs = [{ field = "S1PIE", other = "ID_AA64ISAR2_EL1.ATS1A", since = "7.3" }]
evidence = "e"
""",
            )
        ]
    )
    lowerable = HostDescription(
        name="h", registers=CpregList({MMFR3: S1PIE, ISAR2: ATS1A}), kernel="7.3", writable_masks={ISAR2: 0xF << 60}
    )
    unknown = make_plan([guest], Destination(lowerable), bare)
    assert unknown.refusals[0].reason == "while it is off, ID_AA64MMFR3_EL1.S1PIE reads 0"
