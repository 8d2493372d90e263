"""What proxyd says will become of a guest: `proxyd plan` from two hosts' descriptions, or from the guest's stream."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of, name_of
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination, Plan, VcpuRegisters, make_plan

MPIDR = id_of("MPIDR_EL1")


def plan_between(source: bytes, destination: bytes, vcpus: int, allow: Iterable[str] = ()) -> Plan:
    """Plan for a guest that has just been started on *source*; both are host descriptions. *allow*: by name."""
    fresh = _parsed(source).registers
    numbered = [fresh.edited(put={MPIDR: fresh[MPIDR] + vcpu}) for vcpu in range(vcpus)]
    return _plan(numbered, destination, allow)


def plan_for(vcpus: Iterable[Mapping[str, str]], destination: bytes, allow: Iterable[str] = ()) -> Plan:
    """Plan for the guest whose stream carries these lists, one for each vCPU: id -> value, both in hex."""
    lists = [CpregList({int(register, 16): int(value, 16) for register, value in vcpu.items()}) for vcpu in vcpus]
    return _plan(lists, destination, allow)


def _plan(lists: Iterable[CpregList], destination: bytes, allow: Iterable[str]) -> Plan:
    guest = [VcpuRegisters(vcpu, registers) for vcpu, registers in enumerate(lists)]
    return make_plan(guest, Destination(_parsed(destination)), Knowledge.builtin(), frozenset(map(id_of, allow)))


@functools.lru_cache(maxsize=64)
def _parsed(description: bytes) -> HostDescription:
    return HostDescription.parse(description, "host")


def plan_row(plan: Plan) -> dict[str, Any]:
    """Say in short what *plan* comes to, for a results file: names and values, without reasons and evidence."""
    return {
        "outcome": plan.outcome.value,
        "changes": [
            {
                "vcpu": change.vcpu,
                "action": change.action.value,
                "register": change.target,
                "old": _hex(change.old),
                "new": _hex(change.new),
                "verdict": change.verdict.value,
            }
            for change in plan.changes
        ],
        "refusals": [str(refusal) for refusal in plan.refusals],
        "notices": [
            {"vcpu": notice.vcpu, "register": None if notice.register is None else name_of(notice.register)}
            for notice in plan.notices
        ],
        "unaided": None if plan.unaided is None else plan.unaided.foreseen.value,
    }


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:#x}"
