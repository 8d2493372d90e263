"""The rule that would have fitted: drafted from what real destinations said, tried in the plan."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
from msgspec.structs import replace

from formats.arm64.cpreg_list import CpregList
from formats.arm64.id_fields import field_named
from formats.arm64.register_id import encoding_of, id_of, kind_of, name_of
from formats.events import DeviceTail
from formats.parser import StreamParser
from proxyd.rewrite.acceptance import Acceptance
from proxyd.rewrite.draft import Proposal
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import CaseAction, Knowledge
from proxyd.rewrite.knowledge_file import parse_knowledge
from proxyd.rewrite.observation import Observation, ObservationKind, observations
from proxyd.rewrite.plan import Destination, Outcome, Plan, VcpuRegisters, make_plan
from proxyd.rewrite.policy import StreamLimits
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.proposal import propose
from proxyd.rewrite.proposal_toml import knowledge_toml, profile_toml
from proxyd.rewrite.tail import registers_of
from proxyd.rewrite.verdict import Verdict
from tests import recorded

KNOWLEDGE = Knowledge.builtin()
# But for what it means that a stream lacks a register: that is no failure of the destination's.
NOTHING_KNOWN = Knowledge(
    {
        register: dataclasses.replace(
            entry,
            accepts=(),
            needs=(),
            enabled_by=None,
            cases=tuple(one for one in entry.cases if one.action is CaseAction.ABSENT),
        )
        for register, entry in KNOWLEDGE.entries.items()
    },
    KNOWLEDGE.masks,
)

PSCI, TCR2, PMMIR, MMFR2, MMFR3, SCTLR2, TIMER = map(
    id_of,
    (
        "FW_PSCI_VERSION", "TCR2_EL1", "PMMIR_EL1", "ID_AA64MMFR2_EL1", "ID_AA64MMFR3_EL1", "SCTLR2_EL1", "TIMER_CNT",
    ),
)  # fmt: skip


@cache
def stream(name: str) -> tuple[VcpuRegisters, ...]:
    for event in StreamParser().feed(recorded.load(name)):
        if isinstance(event, DeviceTail):
            return registers_of(event, StreamLimits())
    raise AssertionError(name)


@cache
def host(kernel: str, cpu: str) -> HostDescription:
    return HostDescription.parse(recorded.host_json(kernel, cpu), f"{kernel}-{cpu}")


def tried(
    proposal: Proposal, vcpus: tuple[VcpuRegisters, ...], destination: HostDescription, knowledge: Knowledge
) -> Plan:
    """The plan with the proposal as a profile, everything in it allowed."""
    profile = Profile.parse(profile_toml(proposal, "proposed").encode(), "proposed")
    allow = frozenset(rule.register for rule in proposal.rules)
    return make_plan(vcpus, Destination(destination, profile), knowledge, allow)


def and_learnt(proposal: Proposal, kernel: str) -> Knowledge:
    """What is known, and the entries that are proposed."""
    learnt = parse_knowledge([("proposed.toml", knowledge_toml(proposal, kernel).encode())])
    return Knowledge({**NOTHING_KNOWN.entries, **learnt.entries}, KNOWLEDGE.masks)


def spoken(register: int) -> str:
    """target/arm/kvm.c: kvm_print_register_name, of 11.1."""
    number = register & 0xFFFF
    match kind_of(register).value:
        case "sysreg":
            return f"system register {encoding_of(register)}"
        case "demux":
            return f"demuxed reg {register:x}"
        case "firmware":
            return f"fw reg {number}"
        case _:
            return f"fw feat reg {number}"


def log_of(vcpus: tuple[VcpuRegisters, ...], destination: HostDescription) -> str:
    """What a QEMU 11.1 without tolerances would print there, by the description."""
    acceptance, lines = Acceptance(destination, NOTHING_KNOWN), []
    for vcpu in vcpus:
        for register, value in vcpu.registers.items():
            if register not in destination.registers:
                lines.append(
                    f"handle_cpreg_only_in_incoming_stream: {spoken(register)} in the incoming stream but unknown on "
                    "the destination: fail migration"
                )
            elif acceptance.mismatches(register, value):
                own = destination.registers[register]
                lines.append(f"qemu: Could not set register {spoken(register)} to {value:x} (is {own:x})")
    return "\n".join(lines)


PAIRS = [
    (name, kernel)
    for name in recorded.names()
    for kernel in ("6.1", "6.12", "6.18", "7.3")
    if "-10.0.13-" in name and "returnpath" not in name and not name.startswith(f"{kernel}-")
]


@pytest.mark.parametrize(("name", "kernel"), PAIRS)
def test_a_rule_for_everything_that_a_destination_refuses_though_nothing_is_known(name: str, kernel: str) -> None:
    cpu = next(cpu for cpu in ("neoverse-n1", "neoverse-v1", "max") if cpu in name)
    vcpus, destination = stream(name), host(kernel, cpu)
    log = log_of(vcpus, destination)
    if not log:
        assert make_plan(vcpus, Destination(destination), NOTHING_KNOWN).outcome is Outcome.LOADS_AS_IS
        return
    assert make_plan(vcpus, Destination(destination), NOTHING_KNOWN).outcome is Outcome.REFUSED
    proposal = propose(observations(log), vcpus, destination, NOTHING_KNOWN)
    assert proposal.remarks == ()
    assert {rule.verdict for rule in proposal.rules} == {Verdict.LOSSY}, "to be argued"
    plan = tried(proposal, vcpus, destination, NOTHING_KNOWN)
    assert plan.outcome is Outcome.LOADS_REWRITTEN
    assert {change.rule.partition("[")[0] for change in plan.changes} == {"profile rule"}
    assert log_of(plan.rewritten, destination) == ""

    # The same as knowledge: nothing is unknown any more, and everything is to be allowed.
    learnt = and_learnt(proposal, kernel)
    refusals = make_plan(vcpus, Destination(destination), learnt).refusals
    assert {refusal.verdict for refusal in refusals} <= {Verdict.LOSSY, Verdict.UNKNOWN}
    unknown = [refusal.field or "" for refusal in refusals if refusal.verdict is Verdict.UNKNOWN]
    assert all(field.startswith("[") for field in unknown), "bits that no field is known for"


# What QEMU printed in the lab (11.1.3), and the streams that it was about.

FW = "qemu: Could not set register fw reg 0 to 10003 (is 10001)"
NV = (
    "qemu: Could not set register system register op0:3 op1:0 crn:0 crm:7 op2:2 to 220011100001011 (is 220011102001011)"
)
PMMIR_LINE = (
    "handle_cpreg_only_in_incoming_stream: system register op0:3 op1:0 crn:9 crm:14 op2:6 in the incoming stream but "
    "unknown on the destination: fail migration"
)
HIDDEN = "qemu: Could not set register system register op0:3 op1:0 crn:1 crm:0 op2:3: unknown to KVM"


def test_the_knowledge_bases_own_verdicts_are_taken_over() -> None:
    vcpus, destination = stream("7.3-10.0.13-neoverse-v1-plain-smp1"), host("6.12", "neoverse-v1")
    proposal = propose(observations(f"{FW}\n{NV}\n{PMMIR_LINE}"), vcpus, destination, KNOWLEDGE)
    psci, nv, pmmir = proposal.rules
    assert (psci.kind, psci.value, psci.when, psci.verdict) == (
        "set", 0x10001, "FW_PSCI_VERSION == 0x10003", Verdict.LOSSY,
    )  # fmt: skip
    assert (nv.kind, nv.mask, nv.value, nv.verdict) == ("set-bits", 0xF << 24, 2 << 24, Verdict.NEUTRAL)
    assert nv.when == "ID_AA64MMFR2_EL1.NV == 0 and not listed(HCR_EL2)"
    assert (pmmir.kind, pmmir.when, pmmir.verdict) == ("remove", "PMMIR_EL1 == 0", Verdict.PROVEN)
    assert (proposal.cases, proposal.remarks) == ((), ())
    assert tried(proposal, vcpus, destination, KNOWLEDGE).outcome is Outcome.LOADS_REWRITTEN


@pytest.mark.parametrize(
    "line",
    [
        "qemu: Invalid value 258 expecting positive value <= 257",
        "qemu: load of migration failed: Operation not permitted",
    ],
)
def test_where_no_register_is_named_the_description_tells(line: str) -> None:
    vcpus, destination = stream("6.12-10.0.13-neoverse-n1-full-smp2"), host("7.3", "neoverse-n1")
    proposal = propose(observations(line), vcpus, destination, KNOWLEDGE)
    assert [rule.register for rule in proposal.rules] == [TCR2, id_of("PIRE0_EL1"), id_of("PIR_EL1")]
    assert all(rule.said == (line,) for rule in proposal.rules)
    assert tried(proposal, vcpus, destination, NOTHING_KNOWN).outcome is Outcome.LOADS_REWRITTEN


def test_where_no_value_is_named_the_description_tells() -> None:
    put = "qemu: Failed to put registers after init: Invalid argument"
    vcpus, destination = stream("6.18-10.0.13-neoverse-n1-plain-smp1"), host("6.12", "neoverse-n1")
    (rule,) = propose(observations(put), vcpus, destination, KNOWLEDGE).rules
    assert (rule.register, rule.kind, rule.value) == (PSCI, "set", 0x10001)
    vcpus, destination = stream("6.12-10.0.13-max-plain-smp1"), host("7.3", "max")
    proposal = propose(observations(put), vcpus, destination, KNOWLEDGE)
    assert [(rule.register, rule.kind) for rule in proposal.rules] == [(MMFR3, "set-bits")]
    assert tried(proposal, vcpus, destination, KNOWLEDGE).outcome is Outcome.LOADS_REWRITTEN


def test_a_field_that_hides_a_register_is_kept_on() -> None:
    vcpus, destination = stream("6.12-10.0.13-max-plain-smp1"), host("7.3", "max")
    (rule,) = propose(observations(HIDDEN), vcpus, destination, KNOWLEDGE).rules
    field = field_named(MMFR3, "SCTLRX")
    assert (rule.register, rule.kind, rule.mask, rule.value) == (MMFR3, "set-bits", field.mask, 1 << field.shift)
    assert (rule.when, rule.verdict) == ("ID_AA64MMFR3_EL1.SCTLRX == 0", Verdict.NEUTRAL)
    plan = tried(propose(observations(HIDDEN), vcpus, destination, KNOWLEDGE), vcpus, destination, KNOWLEDGE)
    assert all(field.get(vcpu.registers[MMFR3]) == 1 for vcpu in plan.rewritten)


def test_which_field_hides_a_register_that_nothing_is_known_of() -> None:
    vcpus, destination = stream("6.12-10.0.13-max-plain-smp1"), host("7.3", "max")
    several = propose(observations(HIDDEN), vcpus, destination, NOTHING_KNOWN)
    assert several.rules == ()
    assert "ID_AA64MMFR3_EL1.SCTLRX" in several.remarks[0]
    assert "which is not known" in several.remarks[0]

    only = [VcpuRegisters(0, CpregList({MMFR3: 0, SCTLR2: 0}))]
    there = HostDescription("h", CpregList({MMFR3: 0x10, SCTLR2: 0}), kernel="8.1")
    proposal = propose(observations(HIDDEN), only, there, NOTHING_KNOWN)
    (rule,) = proposal.rules
    assert (rule.register, rule.mask, rule.value, rule.verdict) == (MMFR3, 0xF0, 0x10, Verdict.LOSSY)
    learnt = and_learnt(proposal, "8.1")
    enabled_by = learnt.entries[SCTLR2].enabled_by
    assert enabled_by is not None
    assert (enabled_by.register, enabled_by.field, str(enabled_by.since)) == (MMFR3, "SCTLRX", "8.1")
    plan = make_plan(only, Destination(there), learnt, frozenset({MMFR3}))
    assert plan.outcome is Outcome.LOADS_REWRITTEN
    assert plan.rewritten[0].registers[MMFR3] == 0x10

    nothing = propose(observations(HIDDEN), only, replace(there, registers=CpregList({MMFR3: 0})), NOTHING_KNOWN)
    assert nothing.remarks[0].endswith("none by the host description")
    on = propose(observations(HIDDEN), [VcpuRegisters(0, CpregList({MMFR3: 0x10}))], there, KNOWLEDGE)
    assert on.rules == ()
    assert "ID_AA64MMFR3_EL1.SCTLRX hides it while it is 0" in on.remarks[0]


def test_two_fields_of_one_register_make_one_rule() -> None:
    pir = HIDDEN.replace("crn:1 crm:0 op2:3", "crn:10 crm:2 op2:3")
    only = [VcpuRegisters(0, CpregList({MMFR3: 0}))]
    there = HostDescription("h", CpregList({MMFR3: 0x110, SCTLR2: 0, id_of("PIR_EL1"): 0}), kernel="7.3")
    (rule,) = propose(observations(f"{HIDDEN}\n{pir}"), only, there, KNOWLEDGE).rules
    assert (rule.mask, rule.value, len(rule.said)) == (0xFF0, 0x110, 2)


def only(values: dict[int, int], *others: dict[int, int]) -> list[VcpuRegisters]:
    return [VcpuRegisters(number, CpregList(one)) for number, one in enumerate((values, *others))]


def said(kind: ObservationKind, register: int | None, wanted: int | None = None, own: int | None = None) -> Observation:
    return Observation(kind, "so it said", register, wanted, own, "EBUSY" if kind is K.OTHER_ERROR else None)


K = ObservationKind
HOST = HostDescription("h", CpregList({PSCI: 0x10001, MMFR2: 0, TIMER: 5}), kernel="7.3")


@pytest.mark.parametrize(
    ("seen", "vcpus", "there", "remark"),
    [
        (
            said(K.NOT_LISTED, PMMIR),
            only({PSCI: 1}),
            HOST,
            "PMMIR_EL1 (0x603000000013c4f6): the stream does not have it",
        ),
        (said(K.NOT_LISTED, PMMIR), [], HOST, "PMMIR_EL1 (0x603000000013c4f6): the stream does not have it"),
        (
            said(K.NOT_LISTED, TIMER),
            only({TIMER: 1}),
            HOST,
            "TIMER_CNT (0x603000000013df1a): no rule: the guest's time",
        ),
        (said(K.REFUSED, PMMIR, 1, 0), only({PSCI: 1}), HOST, "wrote a value of its own"),
        (said(K.REFUSED, PSCI, 3), only({PSCI: 3}), None, "the destination's own value is not known"),
        (said(K.REFUSED, PSCI, 3, 1), only({PSCI: 1}), HOST, "the stream has the destination's value already"),
        (said(K.OTHER_ERROR, PSCI), only({PSCI: 3}), HOST, "EBUSY has no cause in the stream: so it said"),
        (said(K.OTHER_ERROR, None), only({PSCI: 3}), HOST, "a register: EBUSY has no cause in the stream"),
        (said(K.CHANGED, PMMIR, 3, 1), only({PSCI: 3}), HOST, "the stream does not have it: so it said"),
        (said(K.SOME_NOT_LISTED, None), only({PSCI: 3}), HOST, "by the description of h there is none"),
        (said(K.SOME_NOT_LISTED, None), only({PSCI: 3}), None, "none is named: the host description would tell"),
        (said(K.SOME_REFUSED, None), only({PSCI: 0x10001}), HOST, "a value that the destination does not take, and by"),
        (
            said(K.SOME_REFUSED, None),
            only({PSCI: 0x10001}),
            None,
            "a value that the destination does not take, and none",
        ),
    ],
)
def test_where_there_is_no_rule_it_says_why(
    seen: Observation, vcpus: list[VcpuRegisters], there: HostDescription | None, remark: str
) -> None:
    proposal = propose([seen], vcpus, there, KNOWLEDGE)
    assert proposal.rules == ()
    assert remark in proposal.remarks[0]


def test_without_a_description_the_log_has_to_tell_both_values() -> None:
    proposal = propose([said(K.REFUSED, PSCI, 0x10003, 0x10001)], only({PSCI: 0x10003}), None, NOTHING_KNOWN)
    assert [(rule.kind, rule.value) for rule in proposal.rules] == [("set", 0x10001)]
    assert [case.accepts for case in proposal.cases] == ["at-most"]
    lower = propose([said(K.REFUSED, PSCI, 1, 3)], only({PSCI: 1}), None, NOTHING_KNOWN)
    assert [case.accepts for case in lower.cases] == ["equal"]


def test_vcpus_with_values_of_their_own_leave_no_condition_on_them() -> None:
    vcpus = only({PSCI: 3, PMMIR: 1, MMFR2: 1 << 24}, {PSCI: 4, PMMIR: 2, MMFR2: 2 << 24})
    seen = [said(K.REFUSED, PSCI), said(K.NOT_LISTED, PMMIR), said(K.REFUSED, MMFR2)]
    rules = propose(seen, vcpus, replace(HOST, kernel="6.12"), NOTHING_KNOWN).rules
    assert [(rule.kind, rule.when) for rule in rules] == [("set", None), ("remove", None), ("set-bits", None)]


def test_a_register_that_is_refused_and_not_listed_is_not_listed() -> None:
    (rule,) = propose([said(K.REFUSED, PMMIR)], only({PMMIR: 0}), HOST, KNOWLEDGE).rules
    assert (rule.kind, rule.verdict) == ("remove", Verdict.PROVEN)


def test_a_description_that_says_otherwise_is_remarked() -> None:
    (listed,) = propose([said(K.NOT_LISTED, PSCI)], only({PSCI: 3}), HOST, NOTHING_KNOWN).rules
    assert "the host description lists it" in listed.remarks[0]
    (other,) = propose([said(K.REFUSED, PSCI, 0x10003, 0x10000)], only({PSCI: 0x10003}), HOST, NOTHING_KNOWN).rules
    assert other.value == 0x10000
    assert other.remarks == ("the host description says 0x10001: it is not this host's; probe anew",)


def test_what_the_plan_had_changed_on_the_way_is_told_from_what_was_left() -> None:
    there = HostDescription("h", CpregList({MMFR2: 0x2000000}), kernel="6.12")
    seen = said(K.REFUSED, MMFR2, 0x2000010, 0x2000000)
    (rule,) = propose([seen], only({MMFR2: 0x10}), there, KNOWLEDGE).rules
    assert rule.mask == 0xF0
    assert rule.remarks[0].startswith("sent was 0x2000010, which the stream does not have")


def test_a_silent_change_keeps_the_guest_at_home() -> None:
    proposal = propose([said(K.CHANGED, PSCI, 0x10003, 0x10001)], only({PSCI: 0x10003}), HOST, NOTHING_KNOWN)
    (rule,) = proposal.rules
    assert (rule.kind, rule.when) == ("require", "FW_PSCI_VERSION == 0x10001")
    profile = Profile.parse(profile_toml(proposal, "p").encode(), "p")
    assert make_plan(only({PSCI: 0x10003}), Destination(None, profile), NOTHING_KNOWN).outcome is Outcome.REFUSED
    assert make_plan(only({PSCI: 0x10001}), Destination(None, profile), NOTHING_KNOWN).outcome is Outcome.LOADS_AS_IS


def test_a_second_kind_of_rule_for_one_register_is_only_remarked() -> None:
    seen = [said(K.REFUSED, PSCI, 0x10003, 0x10001), said(K.CHANGED, PSCI, 0x10003, 0x10001)]
    proposal = propose(seen, only({PSCI: 0x10003}), HOST, NOTHING_KNOWN)
    assert [rule.kind for rule in proposal.rules] == ["set"]
    assert proposal.remarks[0].endswith("also seen, and not covered: so it said")
    twice = propose([seen[0], said(K.REFUSED, PSCI, 0x10003)], only({PSCI: 0x10003}), HOST, NOTHING_KNOWN)
    assert (len(twice.rules), twice.remarks) == (1, ())


def test_cases_whose_conditions_differ_hold_together() -> None:
    entry = b"""
[[entry]]
registers = ["ID_AA64MMFR2_EL1"]
listed = [{}]
evidence = "seen"
[[entry.case]]
action = "destination"
field = "NV"
when = "FW_PSCI_VERSION == 3 or FW_PSCI_VERSION == 4"
verdict = "neutral"
reason = "this"
evidence = "seen"
[[entry.case]]
action = "destination"
field = "CCIDX"
when = "FW_PSCI_VERSION == 3"
verdict = "proven"
reason = "that"
evidence = "seen"
"""
    known = Knowledge(parse_knowledge([("k.toml", entry)]).entries, KNOWLEDGE.masks)
    vcpus = only({PSCI: 3, MMFR2: 0x1100000})
    (rule,) = propose([said(K.REFUSED, MMFR2)], vcpus, HOST, known).rules
    assert rule.when is not None
    assert rule.when.endswith(" and ((FW_PSCI_VERSION == 3) and (FW_PSCI_VERSION == 3 or FW_PSCI_VERSION == 4))")
    assert (rule.verdict, set(rule.reason.split("; "))) == (Verdict.NEUTRAL, {"this", "that"})
    differ = only({PSCI: 5, MMFR2: 0x1000000})
    (unknown,) = propose([said(K.REFUSED, MMFR2)], differ, HOST, known).rules
    assert unknown.verdict is Verdict.LOSSY


@pytest.mark.parametrize(
    ("action", "field", "seen", "register"),
    [
        ("remove", None, said(K.NOT_LISTED, PMMIR), PMMIR),
        ("destination", None, said(K.REFUSED, PSCI, 0x10003, 0x10001), PSCI),
        ("destination", "NV", said(K.REFUSED, MMFR2), MMFR2),
        ("raise", "SCTLRX", said(K.HIDDEN, SCTLR2), MMFR3),
    ],
)
def test_what_no_operator_can_allow_is_not_proposed(
    action: str, field: str | None, seen: Observation, register: int
) -> None:
    entry = f"""
[[entry]]
registers = ["{name_of(register)}"]
listed = [{{}}]
evidence = "seen"
[[entry.case]]
action = "{action}"
{"" if field is None else f'field = "{field}"'}
verdict = "unknown"
reason = "never"
evidence = "seen"
[[entry]]
registers = ["SCTLR2_EL1"]
listed = [{{}}]
enabled_by = {{ field = "ID_AA64MMFR3_EL1.SCTLRX", since = "6.17" }}
evidence = "seen"
"""
    known = Knowledge(parse_knowledge([("k.toml", entry.encode())]).entries, KNOWLEDGE.masks)
    there = replace(HOST, registers=HOST.registers.edited(put={MMFR3: 0x10, SCTLR2: 0}))
    vcpus = only({PSCI: 0x10003, PMMIR: 0, MMFR2: 1 << 24, MMFR3: 0})
    proposal = propose([seen], vcpus, there, known)
    assert (proposal.rules, proposal.cases) == ((), ())
    assert proposal.remarks[0].endswith(": no rule, by what is known: never")
