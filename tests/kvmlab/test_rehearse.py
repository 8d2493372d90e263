"""Rehearsals on real kernels agree with what QEMU's load did there, and catch every kind of tampering.

What QEMU's loads did: tests/integration/measured_pairs.csv. Each host is booted once, with proxyd installed, and all
questions go to its rehearsal service on one connection.
"""

import copy
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of, known_ids, name_of
from formats.errors import SchemaMismatch
from proxyd.cli.subject import load_subject
from proxyd.rehearsal_protocol import Performed, Prepare, Prepared, perform_request
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination, Outcome, Plan, VcpuRegisters, make_plan
from proxyd.rewrite.rehearsal import FAILURES, Finding, FindingKind, Rehearsal
from tests import recorded
from tests.kvmlab.arm64_python import proxyd_archive
from tests.kvmlab.host import Host, HostSpec
from tests.kvmlab.lab import open_lab, print_progress, set_up
from tests.kvmlab.rehearsal_service import Ask, connection, start_service
from tests.tampering import TAMPERINGS, Arrays, Catcher, Tampering

pytestmark = pytest.mark.kvmlab

CPU = "neoverse-n1"
KERNELS = ("6.1", "6.12", "7.3")
HOSTS = (
    *(HostSpec(kernel, CPU) for kernel in KERNELS),
    HostSpec("6.12", "neoverse-v1"),
    HostSpec("7.3", "neoverse-v1"),
)
"""Without masks and with; the newest; with SVE and pointer authentication."""

TOLERATED = {"TCR2_EL1", "PIR_EL1", "PIRE0_EL1", "FW_VENDOR_HYP_BMAP_2"}
"""By QEMU 11.1 (cpreg_mig_tolerance)."""

AT_ONCE = 3
SECONDS = 540
EVERYTHING = frozenset(known_ids())
PAIRS = Path(__file__).parents[1] / "integration" / "measured_pairs.csv"


@dataclass(frozen=True)
class Load:
    """A stream that QEMU was given on a kernel, and whether it loaded; ``refused``: values that KVM did not take."""

    stream: str
    host: HostSpec
    loads: bool
    only_in_stream: frozenset[str]
    refused: frozenset[str]


def loads() -> list[Load]:
    """What was measured on the kernels here, of streams that were recorded."""
    with PAIRS.open(encoding="ascii", newline="") as file:
        found = [
            Load(
                f"{row['source']}-{row['qemu']}-{row['cpu']}-{row['guest']}",
                HostSpec(row["destination"], row["cpu"]),
                row["direct"] == "loads",
                frozenset(row["only_in_stream"].split()),
                frozenset(text.partition("=")[0] for text in row["refused"].split()),
            )
            for row in csv.DictReader(file)
            if row["guest"] != "plain-smp4"  # more of the same, and slow where SVE is emulated
        ]
    return [load for load in found if load.stream in recorded.names() and load.host in HOSTS]


LOADS = loads()


@dataclass
class Rehearsed:
    """What one host said."""

    prepared: Prepared
    as_is: dict[str, Rehearsal] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    rewritten: dict[str, Rehearsal] = field(default_factory=dict)
    tampered: dict[str, Rehearsal] = field(default_factory=dict)


def described(host: HostSpec) -> HostDescription:
    """The host, as its description says."""
    return HostDescription.parse(recorded.host_json(host.kernel, host.cpu), f"{host.kernel}-{host.cpu}")


def untampered(registers: CpregList) -> list[Arrays]:
    """Two vCPUs of a guest that was just started there."""
    second = registers.edited(put={id_of("MPIDR_EL1"): registers[id_of("MPIDR_EL1")] + 1})
    return [(list(one.ids), list(one.values_in_order)) for one in (registers, second)]


def tampered(kind: Tampering, arrays: list[Arrays]) -> list[VcpuRegisters]:
    """The vCPUs after the edit. Raises SchemaMismatch where the parser would."""
    edited = copy.deepcopy(arrays)
    kind.edit(edited)
    return [VcpuRegisters(number, CpregList.from_arrays(*one)) for number, one in enumerate(edited)]


async def _perform(ask: Ask, sent: list[VcpuRegisters], guests: list[VcpuRegisters]) -> Rehearsal:
    performed = await ask(perform_request(sent, guests))
    assert isinstance(performed, Performed), performed
    return performed.rehearsal


async def _ask(host: Host) -> Rehearsed:
    await start_service(host)
    async with connection(host) as ask:
        prepared = await ask(Prepare())
        assert isinstance(prepared, Prepared), prepared
        said = Rehearsed(prepared)
        for load in LOADS:
            if load.host != host.spec:
                continue
            vcpus = list(load_subject(str(recorded.STREAMS / f"{load.stream}.bin.xz")).vcpus)
            said.as_is[load.stream] = await _perform(ask, vcpus, vcpus)
            plan = make_plan(vcpus, Destination(described(load.host)), Knowledge.builtin(), EVERYTHING)
            said.plans[load.stream] = plan
            said.rewritten[load.stream] = await _perform(ask, list(plan.rewritten), vcpus)
        arrays = untampered(CpregList(prepared.registers))
        for kind in TAMPERINGS:
            if (
                host.spec.cpu == CPU
                and host.spec.kernel in kind.kernels
                and Catcher.STREAM not in kind.catchers(host.spec.kernel)
            ):
                vcpus = tampered(kind, arrays)
                said.tampered[kind.name] = await _perform(ask, vcpus, vcpus)
    return said


async def _ask_all(progress: Callable[[str], None]) -> dict[HostSpec, Rehearsed]:
    images = set_up(KERNELS, progress)
    archive = proxyd_archive()
    answers: dict[HostSpec, Rehearsed] = {}
    places = trio.CapacityLimiter(AT_ONCE)
    with trio.fail_after(SECONDS):
        async with open_lab(images, progress) as lab:

            async def ask(spec: HostSpec) -> None:
                async with places:
                    host = await lab.boot(spec, [archive])
                    answers[spec] = said = await _ask(host)
                    progress(f"{host.release}: {len(said.as_is)} streams, {len(said.tampered)} kinds of tampering")
                    await host.stop()

            async with trio.open_nursery() as nursery:
                for spec in HOSTS:
                    nursery.start_soon(ask, spec)
    return answers


@pytest.fixture(scope="module")
def answers(pytestconfig: pytest.Config) -> dict[HostSpec, Rehearsed]:
    """Boot each host once for all tests here, saying on the terminal what the lab does."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def progress(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print_progress(text)

    return trio.run(_ask_all, progress)


def _names(rehearsal: Rehearsal, kind: FindingKind) -> Iterator[str]:
    return (name_of(finding.register) for finding in rehearsal.findings if finding.kind is kind)


def test_there_is_something_to_compare() -> None:
    assert {load.host for load in LOADS} == set(HOSTS)
    assert {load.loads for load in LOADS} == {True, False}


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: f"{host.kernel}-{host.cpu}")
def test_a_fresh_vcpu_has_what_the_description_says(answers: dict[HostSpec, Rehearsed], host: HostSpec) -> None:
    assert sorted(answers[host].prepared.registers) == list(described(host).registers)


@pytest.mark.parametrize("load", LOADS, ids=lambda load: f"{load.stream}-to-{load.host.kernel}")
def test_as_is_it_agrees_with_qemus_load(answers: dict[HostSpec, Rehearsed], load: Load) -> None:
    rehearsal = answers[load.host].as_is[load.stream]
    failing = [f for f in rehearsal.failures() if f.kind in FAILURES and not _tolerated(load, f)]
    assert (not failing) == load.loads, failing
    assert load.only_in_stream <= set(_names(rehearsal, FindingKind.UNKNOWN))
    assert load.refused <= set(_names(rehearsal, FindingKind.REFUSED))


@pytest.mark.parametrize("load", LOADS, ids=lambda load: f"{load.stream}-to-{load.host.kernel}")
def test_rewritten_it_loads_and_every_register_is_what_the_plan_says(
    answers: dict[HostSpec, Rehearsed], load: Load
) -> None:
    assert answers[load.host].plans[load.stream].outcome is not Outcome.REFUSED, "all is allowed"
    rehearsal = answers[load.host].rewritten[load.stream]
    assert rehearsal.faithful, rehearsal.failures()


def _tolerated(load: Load, finding: Finding) -> bool:
    """QEMU 11.1 lets a stream bring these to a vCPU that does not have them; 10.0, which is rehearsed, does not."""
    return "-11.1.3-" in load.stream and finding.kind is FindingKind.UNKNOWN and name_of(finding.register) in TOLERATED


CASES = [(kind, kernel) for kind in TAMPERINGS for kernel in kind.kernels]


@pytest.mark.parametrize(("kind", "kernel"), CASES, ids=[f"{kind.name}-{kernel}" for kind, kernel in CASES])
def test_tampering_is_caught_by_whom_the_table_says(
    answers: dict[HostSpec, Rehearsed], kind: Tampering, kernel: str
) -> None:
    wanted = kind.catchers(kernel)
    arrays = untampered(CpregList(answers[HostSpec(kernel, CPU)].prepared.registers))
    if Catcher.STREAM in wanted:
        with pytest.raises(SchemaMismatch, match="in ascending order expected"):
            tampered(kind, arrays)
        return
    found = set()
    plan = make_plan(tampered(kind, arrays), Destination(described(HostSpec(kernel, CPU))), Knowledge.builtin())
    if any(refusal.register == kind.register for refusal in plan.refusals):
        found.add(Catcher.PLAN)
    failures = answers[HostSpec(kernel, CPU)].tampered[kind.name].failures()
    if any(finding.register == kind.register for finding in failures):
        found.add(Catcher.REHEARSAL)
    assert found == wanted, failures
