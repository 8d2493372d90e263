"""One vCPU by itself; what comes of it for whole guests is in test_plan.py."""

from __future__ import annotations

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.rewrite.acceptance import Acceptance
from proxyd.rewrite.changes import VcpuRegisters
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.vcpu_planner import VcpuPlanner

TPIDR, TCR2 = id_of("TPIDR_EL1"), id_of("TCR2_EL1")


def test_nothing_to_plan_for() -> None:
    planner = VcpuPlanner(VcpuRegisters(3, CpregList({TPIDR: 1})), None, None, Knowledge(), frozenset())
    planner.run()
    assert planner.result == VcpuRegisters(3, CpregList({TPIDR: 1}))
    assert (planner.changes, planner.refusals, planner.notices) == ([], [], [])


def test_the_result_is_built_beside_what_came() -> None:
    knowledge = Knowledge.builtin()
    host = HostDescription(name="h", registers=CpregList({TPIDR: 0, id_of("ID_AA64MMFR3_EL1"): 0}), kernel="7.3")
    came = VcpuRegisters(0, CpregList({TPIDR: 1, TCR2: 0, id_of("ID_AA64MMFR3_EL1"): 0}))
    planner = VcpuPlanner(came, None, Acceptance(host, knowledge), knowledge, frozenset())
    planner.run()
    assert [change.register for change in planner.changes] == [TCR2]
    assert TCR2 in came.registers
    assert TCR2 not in planner.result.registers
