"""What was done to one stream, for log, metric and command line alike.

``to_json_dict`` is documented in ``docs/commands.md`` and carries a version: others script against it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final

from formats.arm64.register_id import name_of
from proxyd.rewrite.plan import Change, Notice, Plan, Refusal
from proxyd.rewrite.rehearsal import Rehearsal
from proxyd.rewrite.unaided import Unaided

JSON_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class RewriteReport:
    """The plan that was carried out, or that led to a refusal, and the machine type of the stream.

    ``rehearsal`` is what the destination's KVM said to the plan's result, where it was asked.
    """

    machine: str | None
    plan: Plan
    rehearsal: Rehearsal | None = None

    def counts(self) -> Counter[tuple[str, str]]:
        """Number of changes by (action, verdict)."""
        return Counter((change.action.value, change.verdict.value) for change in self.plan.changes)

    def to_json_dict(self) -> dict[str, Any]:
        """A JSON object: names beside ids, ids and values as hex strings."""
        plan = self.plan
        rehearsed = {} if self.rehearsal is None else {"rehearsal": self.rehearsal.to_json_dict()}
        return {
            "version": JSON_VERSION,
            "machine": self.machine,
            "outcome": plan.outcome.value,
            "vcpus": [vcpu.vcpu for vcpu in plan.vcpus],
            "changes": [_entry(change) for change in plan.changes],
            "refusals": [_entry(refusal) for refusal in plan.refusals],
            "notices": [_entry(notice) for notice in plan.notices],
            "unaided": None if plan.unaided is None else _unaided(plan.unaided),
            **rehearsed,
        }


_HEX: Final = frozenset({"register", "old", "new", "value", "destination_value"})


def _unaided(unaided: Unaided) -> dict[str, Any]:
    """What the destination's QEMU would make of the stream by itself."""
    return {
        "foreseen": unaided.foreseen.value,
        "fails": list(unaided.fails),
        "changes": list(unaided.changes),
        "unknown": list(unaided.unknown),
    }


def _entry(item: Change | Refusal | Notice) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in asdict(item).items():
        found[key] = f"{value:#x}" if key in _HEX and value is not None else value
    if item.register is not None:
        found["name"] = name_of(item.register)
    return found
