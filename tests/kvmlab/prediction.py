"""What proxyd says will become of a guest, from two host descriptions alone: `proxyd plan` for a fresh guest."""

import functools
from collections.abc import Iterable
from typing import Any

from formats.arm64.register_id import id_of, name_of
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination, Plan, VcpuRegisters, make_plan


def plan_between(source: bytes, destination: bytes, vcpus: int, allow: Iterable[str] = ()) -> Plan:
    """Plan for a guest that has just been started on *source*; both are host descriptions. *allow*: by name."""
    fresh = _parsed(source).registers
    guest = [VcpuRegisters(vcpu, fresh) for vcpu in range(vcpus)]
    return make_plan(guest, Destination(_parsed(destination)), Knowledge.builtin(), frozenset(map(id_of, allow)))


@functools.lru_cache(maxsize=64)
def _parsed(description: bytes) -> HostDescription:
    return HostDescription.parse(description, "host")


def predict(source: bytes, destination: bytes, vcpus: int, allow: Iterable[str] = ()) -> dict[str, Any]:
    """Return the plan's outcome, changes, refusals and notices for a results file."""
    return plan_row(plan_between(source, destination, vcpus, allow))


def plan_row(plan: Plan) -> dict[str, Any]:
    """Say in short what *plan* comes to: names and values, without reasons and evidence."""
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
    }


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:#x}"
