"""Every host with every other."""

from __future__ import annotations

from msgspec.structs import replace

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.rewrite.host import HostDescription, Variant
from proxyd.rewrite.host_matrix import CellOutcome, Effect, HostMatrix, make_matrix
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination, Outcome, VcpuRegisters, make_plan
from proxyd.rewrite.unaided import Foreseen
from proxyd.rewrite.verdict import Verdict
from tests.recorded import KERNELS, host_json

KNOWLEDGE = Knowledge.builtin()
MIDR, PMCR, TCR2, PSCI = map(id_of, ("MIDR_EL1", "PMCR_EL0", "TCR2_EL1", "FW_PSCI_VERSION"))

PMU = HostDescription(
    "pmu",
    CpregList({MIDR: 1, PMCR: 2}),
    kernel="7.3",
    features=("psci", "pmu"),
    counter_hz=25_000_000,
    variants=(Variant(("psci",), frozenset({PMCR}), {}),),
)
NONE = HostDescription(
    "none",
    CpregList({MIDR: 1}),
    kernel="7.3",
    features=("psci",),
    counter_hz=25_000_000,
    missing_features={"pmu": "KVM has no ARM_PMU_V3"},
)


def real(cpu: str = "neoverse-n1") -> list[HostDescription]:
    return [HostDescription.parse(host_json(kernel, cpu), kernel) for kernel in KERNELS]


def texts(matrix: HostMatrix, numbers: tuple[int, ...]) -> list[str]:
    return [matrix.reasons[number - 1].text for number in numbers]


def test_ten_kernels_are_a_hundred_plans() -> None:
    hosts = real()
    matrix = make_matrix(hosts, KNOWLEDGE)
    assert len(matrix.cells) == 100
    for cell in matrix.cells:
        source, destination = hosts[cell.source], hosts[cell.destination]
        plan = make_plan([VcpuRegisters(0, source.registers)], Destination(host=destination), KNOWLEDGE)
        assert cell.outcome.value == plan.outcome.value
        assert cell is matrix.cell(cell.source, cell.destination)
        assert bool(cell.decisive) is (plan.outcome is not Outcome.LOADS_AS_IS)
        if plan.outcome is Outcome.REFUSED:
            assert (cell.register, cell.worst) == (plan.refusals[0].register, max(one.verdict for one in plan.refusals))
        else:
            assert (cell.register, cell.worst) == (None, plan.worst)
    assert not matrix.all_load
    assert [one.number for one in matrix.reasons] == list(range(1, len(matrix.reasons) + 1))
    assert len({(one.effect, one.verdict, one.text) for one in matrix.reasons}) == len(matrix.reasons)


def test_what_is_refused_is_named() -> None:
    old, new = real()[1], real()[4]
    cell = make_matrix([old, new], KNOWLEDGE).cell(1, 0)
    assert (cell.outcome, cell.worst, cell.register, cell.field) == (
        CellOutcome.REFUSED, Verdict.LOSSY, PSCI, None,
    )  # fmt: skip
    allowed = make_matrix([old, new], KNOWLEDGE, allow=frozenset({PSCI}))
    assert allowed.cell(1, 0).outcome is CellOutcome.LOADS_REWRITTEN
    assert allowed.all_load


def test_a_reason_has_the_registers_of_all_pairs() -> None:
    matrix = make_matrix(real()[:5], KNOWLEDGE)
    removed = next(one for one in matrix.reasons if TCR2 in one.registers)
    assert (removed.effect, removed.verdict, removed.registers) == (Effect.REMOVED, Verdict.PROVEN, (TCR2,))
    assert sum(removed.number in cell.decisive for cell in matrix.cells) == 4, "6.12 to 6.1, 6.16, 6.17, 6.18"


def test_guests_with_a_feature_that_the_destination_lacks() -> None:
    matrix = make_matrix([PMU, NONE], KNOWLEDGE)
    cell = matrix.cell(0, 1)
    assert (cell.outcome, cell.worst, cell.register) == (CellOutcome.REFUSED, None, None)
    assert texts(matrix, cell.decisive) == ["the destination has no pmu (KVM has no ARM_PMU_V3)"]
    back = matrix.cell(1, 0)
    assert (back.outcome, back.decisive) == (CellOutcome.LOADS_AS_IS, ())
    assert texts(matrix, back.reasons) == [
        "the destination has more than such guests: QEMU there must be started with -cpu host,pmu=off"
    ]


def test_guests_without_it_go_everywhere() -> None:
    matrix = make_matrix([PMU, NONE], KNOWLEDGE, without=("pmu",))
    assert matrix.all_load
    assert {cell.features for cell in matrix.cells} == {("psci",)}


def test_guests_that_a_host_cannot_start_count_for_nothing() -> None:
    matrix = make_matrix([PMU, NONE], KNOWLEDGE, features=("pmu",))
    assert matrix.cell(1, 0).outcome is matrix.cell(1, 1).outcome is CellOutcome.NO_GUEST
    assert texts(matrix, matrix.cell(1, 0).decisive) == ["the source has no pmu: such a guest cannot be started there"]
    assert matrix.cell(0, 1).outcome is CellOutcome.REFUSED


def test_lists_that_nobody_has_read_are_derived() -> None:
    hosts = [replace(host, qemu="11.1") for host in real()[1:5]]
    with_pmu, without = make_matrix(hosts, KNOWLEDGE), make_matrix(hosts, KNOWLEDGE, without=("pmu",))
    assert with_pmu.cell(0, 0).outcome is CellOutcome.LOADS_REWRITTEN, "6.12 clears PMU enables"
    assert without.cell(0, 0).outcome is CellOutcome.LOADS_AS_IS
    assert "pmu" not in without.cell(0, 1).features
    assert without.cell(0, 1).unaided is Foreseen.LOADS
    assert without.cell(1, 0).unaided is Foreseen.FAILS


def test_a_guest_that_loads_and_goes_wrong() -> None:
    matrix = make_matrix([NONE, replace(NONE, counter_hz=50_000_000)], KNOWLEDGE)
    cell = matrix.cell(0, 1)
    assert cell.outcome is CellOutcome.BREAKS
    (text,) = texts(matrix, cell.decisive)
    assert text.startswith(
        "guest time runs 2 times as fast on the destination: the counter has 25000000 Hz on the source"
    )
    assert not matrix.all_load


def test_a_refusal_outweighs_what_would_go_wrong() -> None:
    other = replace(NONE, counter_hz=50_000_000, registers=CpregList({PSCI: 1}))
    assert make_matrix([NONE, other], KNOWLEDGE).cell(0, 1).outcome is CellOutcome.REFUSED
