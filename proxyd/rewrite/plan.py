"""What would change for a guest's vCPUs to load on a destination, with a verdict for each change. No bytes, no I/O.

Order, for each vCPU:

1. the profile's rules, as written;
2. registers that the destination does not list are removed (QEMU would fail on them, or, above the destination's
   highest id, lose them without a word);
3. values that the destination does not take become its own, field by field; so do those that it would replace by its
   own without an error, because what a guest loses must be named;
4. values that it takes and does not keep are sent in a way that comes to the same;
5. what the stream lacks is added where the source's kernel meant something by its absence, and ID register fields are
   raised where, off, they would hide a register that the destination lists and QEMU writes.

The destination is described for a vCPU with the stream's features (:mod:`.vcpu_features`). Conditions always see the
registers as they came. A change whose verdict does not let it pass is a refusal, and one refusal refuses the guest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from proxyd.rewrite.acceptance import Acceptance
from proxyd.rewrite.agreement import disagreements
from proxyd.rewrite.changes import Action, Change, Notice, Refusal, VcpuRegisters
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.unaided import Unaided, foresee
from proxyd.rewrite.vcpu_features import described_for, features_of
from proxyd.rewrite.vcpu_planner import VcpuPlanner
from proxyd.rewrite.verdict import Verdict

__all__ = [
    "Action",
    "Change",
    "Destination",
    "Notice",
    "Outcome",
    "Plan",
    "Refusal",
    "VcpuRegisters",
    "make_plan",
]


class Outcome(StrEnum):
    """What a plan comes to."""

    LOADS_AS_IS = "loads-as-is"
    LOADS_REWRITTEN = "loads-rewritten"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the stream goes: a description of the host, a profile written by hand, or both."""

    host: HostDescription | None = None
    profile: Profile | None = None


@dataclass(frozen=True)
class Plan:
    """The outcome, and everything that led to it. ``vcpus`` is what came."""

    outcome: Outcome
    changes: tuple[Change, ...]
    refusals: tuple[Refusal, ...]
    notices: tuple[Notice, ...]
    vcpus: tuple[VcpuRegisters, ...]
    rewritten: tuple[VcpuRegisters, ...]
    acceptance: Acceptance | None = field(default=None, repr=False, compare=False)

    @cached_property
    def unaided(self) -> Unaided | None:
        """What the destination's QEMU would do with the stream as it is; None where the host is not described.

        Foretold when somebody asks, which is not while the guest stands still."""
        return None if self.acceptance is None or not self.vcpus else foresee(self.vcpus, self.acceptance)

    @cached_property
    def worst(self) -> Verdict | None:
        """The worst verdict of all changes."""
        return max((change.verdict for change in self.changes), default=None)


def make_plan(
    vcpus: Sequence[VcpuRegisters],
    destination: Destination,
    knowledge: Knowledge,
    allow: frozenset[int] = frozenset(),
) -> Plan:
    """Plan for all vCPUs of one guest. ``allow`` holds the registers that may change with loss."""
    acceptance = None
    notices: list[Notice] = []
    if destination.host is not None and vcpus:
        host, remark = described_for(destination.host, features_of(vcpus[0].registers), knowledge)
        acceptance = Acceptance(host, knowledge)
        notices += [Notice(0, None, remark)] if remark is not None else []
    planners = [VcpuPlanner(vcpu, destination.profile, acceptance, knowledge, allow) for vcpu in vcpus]
    for planner in planners:
        planner.run()
    refusals = [refusal for planner in planners for refusal in planner.refusals]
    rewritten = tuple(planner.result for planner in planners)
    refusals += _uneven(vcpus, rewritten)
    if destination.host is not None:
        refusals += disagreements(vcpus)
    changes = tuple(change for planner in planners for change in planner.changes)
    loads = Outcome.LOADS_REWRITTEN if changes else Outcome.LOADS_AS_IS
    outcome = Outcome.REFUSED if refusals else loads
    notices += [notice for planner in planners for notice in planner.notices]
    if acceptance is not None:
        notices += _newer_than_known(acceptance, knowledge)
    return Plan(outcome, changes, tuple(refusals), tuple(notices), tuple(vcpus), rewritten, acceptance)


def _uneven(before: Sequence[VcpuRegisters], after: Sequence[VcpuRegisters]) -> Iterator[Refusal]:
    """ID and firmware registers are the VM's, not a vCPU's: what goes or comes must do so on all of them."""
    if not before:
        return
    edits = [set(old.registers) ^ set(new.registers) for old, new in zip(before, after, strict=True)]
    for vcpu, edit in zip(after[1:], edits[1:], strict=True):
        for register in sorted(edit ^ edits[0]):
            reason = f"would be removed or added on vcpu {before[0].vcpu} or on this one, but not on both"
            yield Refusal(vcpu.vcpu, register, None, None, Verdict.UNKNOWN, reason)


def _newer_than_known(acceptance: Acceptance, knowledge: Knowledge) -> Iterator[Notice]:
    newest = knowledge.newest_kernel
    if acceptance.kernel is not None and newest is not None and acceptance.kernel > newest:
        text = f"the destination's Linux {acceptance.kernel} is newer than what is known: the rules for {newest} apply"
        yield Notice(0, None, text)
