"""The plan against every pair of kernels that was tried for real.

``measured_pairs.csv`` says, for 91 pairs, whether real QEMU and KVM loaded the stream as it was (``direct``), which
registers only the stream had (``only_in_stream``; cache registers left out), which values KVM_SET_ONE_REG refused with
EINVAL (``refused``), and which registers of the destination's own list it refused with ENOENT, because the stream's ID
registers hid them (``hidden``). All that failed loaded after a rewrite.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from formats.arm64.id_fields import field_named
from formats.arm64.register_id import id_of, known_ids
from formats.events import DeviceTail
from formats.parser import StreamParser
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination, Outcome, Plan, VcpuRegisters, make_plan
from proxyd.rewrite.policy import StreamLimits
from proxyd.rewrite.tail import registers_of
from proxyd.rewrite.unaided import Foreseen
from proxyd.rewrite.verdict import Verdict
from tests import recorded

EVERYTHING = frozenset(known_ids())

# The ID register field without which a kernel hides the register from the vCPU.
HIDDEN_BY = {
    "TCR2_EL1": ("ID_AA64MMFR3_EL1", "TCRX"),
    "PIR_EL1": ("ID_AA64MMFR3_EL1", "S1PIE"),
    "PIRE0_EL1": ("ID_AA64MMFR3_EL1", "S1PIE"),
    "SCTLR2_EL1": ("ID_AA64MMFR3_EL1", "SCTLRX"),
    "FPMR": ("ID_AA64PFR2_EL1", "FPMR"),
}


class Pair(NamedTuple):
    cpu: str
    qemu: str
    guest: str
    source: str
    destination: str
    direct: str
    only_in_stream: str
    refused: str
    hidden: str

    def __str__(self) -> str:
        return f"{self.cpu}-{self.qemu}-{self.guest}-{self.source}-to-{self.destination}"


def read_pairs() -> list[Pair]:
    with (Path(__file__).parent / "measured_pairs.csv").open(encoding="ascii", newline="") as file:
        return [Pair(**row) for row in csv.DictReader(file)]


PAIRS = read_pairs()
FAILED = [pair for pair in PAIRS if pair.direct == "fails"]


@cache
def host(kernel: str, cpu: str) -> HostDescription:
    return HostDescription.parse(recorded.host_json(kernel, cpu), f"{kernel}-{cpu}")


@cache
def stream(name: str) -> tuple[VcpuRegisters, ...]:
    parser = StreamParser()
    (tail,) = [event for event in parser.feed(recorded.load(name)) if isinstance(event, DeviceTail)]
    return registers_of(tail, StreamLimits())


def guest_of(pair: Pair) -> tuple[VcpuRegisters, ...]:
    """The recorded stream; of a kernel that none was recorded on, its fresh register list, which has the same ids."""
    name = f"{pair.source}-{pair.qemu}-{pair.cpu}-{pair.guest}"
    if name in recorded.names():
        return stream(name)
    count = int(pair.guest.partition("smp")[2])
    return tuple(VcpuRegisters(vcpu, host(pair.source, pair.cpu).registers) for vcpu in range(count))


def planned(pair: Pair, allow: frozenset[int] = frozenset()) -> Plan:
    description = msgspec.structs.replace(host(pair.destination, pair.cpu), qemu=pair.qemu)
    return make_plan(guest_of(pair), Destination(description), Knowledge.builtin(), allow)


def test_the_table_is_all_there() -> None:
    assert (len(PAIRS), len(FAILED)) == (91, 59)
    tried = {(pair.cpu, pair.source) for pair in PAIRS}
    assert {cpu for cpu, _ in tried} == {"neoverse-n1", "neoverse-v1", "max"}
    assert {kernel for _, kernel in tried} == set(recorded.KERNELS)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_what_qemu_did_is_foreseen(pair: Pair) -> None:
    result = planned(pair)
    assert result.unaided is not None
    if pair.direct == "loads":
        # What it may lose all the same, nobody said then: the lab's guests tell.
        assert result.unaided.foreseen in (Foreseen.LOADS, Foreseen.CHANGES)
        assert result.refusals == ()
    else:
        assert result.unaided.foreseen is Foreseen.FAILS
        assert result.outcome is not Outcome.LOADS_AS_IS
    for refused in (*pair.refused.split(), *pair.hidden.split()):
        name = refused.partition("=")[0]
        assert any(sentence.startswith(name) for sentence in result.unaided.fails), name


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_nothing_is_changed_where_nothing_would_go_wrong(pair: Pair) -> None:
    result = planned(pair)
    assert result.unaided is not None
    if result.unaided.foreseen is Foreseen.LOADS:
        assert result.worst in (None, Verdict.PROVEN)


@pytest.mark.parametrize("pair", FAILED, ids=str)
def test_the_rewrite_mends_what_the_kernel_refused(pair: Pair) -> None:
    result = planned(pair, EVERYTHING)
    assert result.outcome is Outcome.LOADS_REWRITTEN
    wanted = host(pair.destination, pair.cpu).registers
    for vcpu in result.rewritten:
        registers = vcpu.registers
        assert set(registers) <= set(wanted)
        for name in pair.only_in_stream.split():
            assert id_of(name) not in registers
        for refused in pair.refused.split():
            name, _, value = refused.partition("=")
            assert registers[id_of(name)] != int(value, 16), name
        for name in pair.hidden.split():
            register, field = HIDDEN_BY[name]
            assert field_named(id_of(register), field).get(registers[id_of(register)]), name


def release(kernel: str) -> tuple[int, ...]:
    return tuple(map(int, kernel.split(".")))


def all_ways() -> list[tuple[str, str, str]]:
    """Every recorded stream, towards every kernel on the same CPU."""
    ways = []
    for name in recorded.names():
        (cpu,) = {cpu for cpu in ("neoverse-n1", "neoverse-v1", "max") if f"-{cpu}-" in name}
        ways += [(name, cpu, kernel) for kernel in recorded.KERNELS]
    return ways


@pytest.mark.parametrize(("name", "cpu", "kernel"), all_ways())
def test_every_stream_towards_every_kernel(name: str, cpu: str, kernel: str) -> None:
    destination = Destination(host(kernel, cpu))
    result = make_plan(stream(name), destination, Knowledge.builtin())
    if release(name.partition("-")[0]) <= release(kernel):
        # A newer kernel is never a reason to refuse, or to lose anything.
        assert result.refusals == ()
    assert {refusal.verdict for refusal in result.refusals} <= {Verdict.LOSSY}, result.refusals
    # With leave to lose, it loads; and what comes out needs nothing more.
    allowed = make_plan(stream(name), destination, Knowledge.builtin(), EVERYTHING)
    assert allowed.refusals == ()
    again = make_plan(allowed.rewritten, destination, Knowledge.builtin())
    assert (again.outcome, again.rewritten) == (Outcome.LOADS_AS_IS, allowed.rewritten)
    # All vCPUs were edited alike, where they came alike.
    edits = {(change.vcpu, change.target, change.action) for change in allowed.changes}
    for vcpu in allowed.vcpus:
        assert {edit[1:] for edit in edits if edit[0] == vcpu.vcpu} == {edit[1:] for edit in edits}
