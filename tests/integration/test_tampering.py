"""Every kind of tampering (tests/tampering.py) is refused before release, and the register named."""

from __future__ import annotations

from functools import cache

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import describe, id_of
from formats.errors import SchemaMismatch
from proxyd.kvm.rehearsal import rehearse
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination, Outcome, VcpuRegisters, make_plan
from tests import recorded
from tests.proxyd.kvm.fake_kernel import FakeKernel
from tests.tampering import ANY, TAMPERINGS, Arrays, Catcher, Tampering

CPU = "neoverse-n1"
CASES = [(kind, kernel) for kind in TAMPERINGS for kernel in kind.kernels]


@cache
def host(kernel: str) -> HostDescription:
    return HostDescription.parse(recorded.host_json(kernel, CPU), kernel)


def arrays_of(registers: CpregList) -> list[Arrays]:
    """Two vCPUs of a guest that was just started there; the second has the MPIDR of a second."""
    second = registers.edited(put={id_of("MPIDR_EL1"): registers[id_of("MPIDR_EL1")] + 1})
    return [(list(one.ids), list(one.values_in_order)) for one in (registers, second)]


def catchers(kind: Tampering, kernel: str, arrays: list[Arrays]) -> set[Catcher]:
    """Who names the register, of those who see the stream at all."""
    kind.edit(arrays)
    try:
        vcpus = [VcpuRegisters(n, CpregList.from_arrays(*one)) for n, one in enumerate(arrays)]
    except SchemaMismatch as error:
        named = any(describe(register) in str(error) for register in arrays[0][0])
        return {Catcher.STREAM} if kind.register == ANY and named else set()
    found = set()
    plan = make_plan(vcpus, Destination(host(kernel)), Knowledge.builtin())
    if any(refusal.register == kind.register for refusal in plan.refusals):
        assert plan.outcome is Outcome.REFUSED
        found.add(Catcher.PLAN)
    fake = FakeKernel(host(kernel))
    rehearsal = rehearse(fake, fake, vcpus, kernel=kernel)
    if any(finding.register == kind.register for finding in rehearsal.failures()):
        found.add(Catcher.REHEARSAL)
    return found


@pytest.mark.parametrize(("kind", "kernel"), CASES, ids=[f"{kind.name}-{kernel}" for kind, kernel in CASES])
def test_each_kind(kind: Tampering, kernel: str) -> None:
    assert catchers(kind, kernel, arrays_of(host(kernel).registers)) == kind.catchers(kernel)
