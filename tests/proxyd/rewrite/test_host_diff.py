"""What the difference between two hosts means for guests."""

from __future__ import annotations

from functools import cache

from msgspec.structs import replace

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of, name_of
from proxyd.rewrite.guest_features import meet
from proxyd.rewrite.host import HostDescription, Variant
from proxyd.rewrite.host_diff import REGISTERS, compare_hosts, plan_for_new_guest, shared_names
from proxyd.rewrite.host_traits import Severity, Statement, Way
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Outcome
from proxyd.rewrite.verdict import Verdict
from tests.recorded import host_json

KNOWLEDGE = Knowledge.builtin()
MIDR, PMCR = id_of("MIDR_EL1"), id_of("PMCR_EL0")
UNKNOWN = 0x603000000013FFFF  # no register


@cache
def real(kernel: str, cpu: str = "neoverse-n1") -> HostDescription:
    return HostDescription.parse(host_json(kernel, cpu), f"{kernel}-{cpu}")


def said(a: HostDescription, b: HostDescription, way: Way) -> list[Statement]:
    found = compare_hosts(a, b, Knowledge.builtin())
    assert list(found.statements) == [one for each in Way for one in found.of(each)], "in the order of reading"
    return [one for one in found.of(way) if one.subject == REGISTERS]


def test_loads_after_rewriting() -> None:
    first, *others = said(real("6.12"), real("7.3"), Way.A_TO_B)
    assert first.text == (
        "guests load on B after rewriting: 3 registers removed (proven): TCR2_EL1, PIRE0_EL1, PIR_EL1"
    )
    assert (first.severity, first.verdict) == (Severity.REWRITTEN, Verdict.PROVEN)
    assert others[0].text.startswith("TCR2_EL1 removed, proven: the guest's ID_AA64MMFR3_EL1")
    assert others[0].registers == (id_of("TCR2_EL1"),)
    assert others[1].text.startswith("PIRE0_EL1, PIR_EL1 removed, proven: ")
    assert [one.severity for one in others if one.text.startswith("PMMIR_EL1 not in the stream")] == [Severity.FINE]


def test_the_other_way_round_is_refused_by_name() -> None:
    first, second, *others = said(real("6.12"), real("7.3"), Way.B_TO_A)
    assert first.text == "guests are refused by A, and stay on B: FW_PSCI_VERSION"
    assert (first.severity, first.verdict) == (Severity.REFUSED, Verdict.LOSSY)
    assert second.text.startswith("FW_PSCI_VERSION is 0x10003 here and 0x10001 there: lossy: ")
    assert any(one.text.startswith("PMMIR_EL1 would be removed, proven: ") for one in others)


def test_one_value_changed_is_told_with_its_values() -> None:
    texts = [one.text for one in said(real("6.1", "neoverse-v1"), real("7.3", "neoverse-v1"), Way.A_TO_B)]
    assert " registers changed (neutral): DEMUX_CCSIDR[0], DEMUX_CCSIDR[1], " in texts[0]
    assert any(text.startswith("ID_MMFR4_EL1.CCIDX changed from 0x1 to 0x0, neutral: ") for text in texts)


def test_another_cpu_is_many_refusals_in_few_sentences() -> None:
    refused = [
        one
        for one in said(real("6.1", "max"), real("7.3", "neoverse-v1"), Way.A_TO_B)
        if one.severity is Severity.REFUSED
    ]
    assert 2 < len(refused) < 12
    assert " and " in refused[0].text
    assert MIDR in refused[0].registers
    assert any("ID_ISAR6_EL1 (SB, SPECRES)" in one.text for one in refused)


def test_the_same_host_loads_as_it_is() -> None:
    (one,) = said(real("6.18"), real("6.18"), Way.A_TO_B)
    assert (one.severity, one.text) == (Severity.FINE, "guests load on B as they are")


def test_a_kernel_that_is_newer_than_what_is_known() -> None:
    (_, newer) = said(real("7.3"), replace(real("7.3"), kernel="8.0"), Way.A_TO_B)
    assert newer.text.startswith("the destination's Linux 8.0 is newer than what is known")
    assert newer.registers == ()


PMU = HostDescription(
    "pmu",
    CpregList({MIDR: 1, PMCR: 2}),
    kernel="7.3",
    features=("psci", "pmu"),
    variants=(Variant(("psci",), frozenset({PMCR}), {}),),
)
NONE = HostDescription("none", CpregList({MIDR: 1}), kernel="7.3", features=("psci",))


def test_guests_without_what_the_other_lacks_can_still_move() -> None:
    assert said(PMU, NONE, Way.A_TO_B)[0].text == "guests without pmu load on B as they are"
    assert said(PMU, NONE, Way.B_TO_A)[0].text == "guests load on A as they are"


def test_what_would_happen_without_proxyd() -> None:
    old, new = replace(real("6.12"), qemu="10.0.13"), replace(real("7.3"), qemu="10.0.13")
    found = compare_hosts(old, new, Knowledge.builtin())
    there, back = (one for one in found.statements if one.subject == "unaided")
    assert there.text.startswith(
        "without proxyd their load would fail: Invalid value 258 expecting positive value <= 257"
    )
    assert there.text.endswith(" more)")
    assert back.way is Way.B_TO_A
    (same, _) = (one for one in compare_hosts(new, new, Knowledge.builtin()).statements if one.subject == "unaided")
    assert same.text == "without proxyd they would load, and nothing would be lost"


def test_an_unknown_register_is_refused() -> None:
    odd = replace(NONE, registers=CpregList({MIDR: 1, UNKNOWN: 0}))
    first, second = said(odd, NONE, Way.A_TO_B)
    assert first.verdict is Verdict.UNKNOWN
    assert second.text == f"{name_of(UNKNOWN)}: unknown: the destination does not list it, and nothing is known of it"
    assert plan_for_new_guest(meet(odd, NONE, KNOWLEDGE), KNOWLEDGE).outcome is Outcome.REFUSED


def test_long_lists_are_counted() -> None:
    registers = [id_of(f"DEMUX_CCSIDR[{number}]") for number in range(9)]
    assert shared_names(registers[:7]).count(",") == 6
    assert shared_names(registers).endswith("DEMUX_CCSIDR[5] and 3 more")
