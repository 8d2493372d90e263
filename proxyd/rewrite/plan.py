"""What would change for a guest's vCPUs to load on a destination, with a verdict for each change. No bytes, no I/O.

Order, for each vCPU:

1. the profile's rules, as written;
2. registers that the destination does not list are removed (QEMU would fail on them, or, above the destination's
   highest id, lose them without a word);
3. values that the destination does not take become its own, field by field;
4. values that it takes and does not keep are sent in a way that comes to the same;
5. ID register fields are raised where, off, they would hide a register that the destination lists and QEMU writes.

Conditions always see the registers as they came. A change whose verdict does not let it pass is a refusal, and one
refusal refuses the guest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

from formats.arm64.cpreg_list import CpregList
from formats.arm64.id_fields import field_named
from formats.arm64.register_id import describe, name_of
from proxyd.rewrite.acceptance import Acceptance, Mismatch
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Case, CaseAction, Entry, Knowledge
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.verdict import Verdict


class Action(StrEnum):
    """What happens to a register in the stream."""

    REMOVE = "remove"
    SET = "set"
    ADD = "add"


class Outcome(StrEnum):
    """What a plan comes to."""

    LOADS_AS_IS = "loads-as-is"
    LOADS_REWRITTEN = "loads-rewritten"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class VcpuRegisters:
    """One vCPU's cpreg list; ``vcpu`` is the ``cpu`` section's instance id."""

    vcpu: int
    registers: CpregList


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the stream goes: a description of the host, a profile written by hand, or both."""

    host: HostDescription | None = None
    profile: Profile | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One change to one register of one vCPU.

    ``old`` and ``new`` are values of the field where ``field`` names one, else of the register. ``rule`` says who asks:
    ``knowledge`` or ``profile rule[n]``. ``allowed`` is True where the route's allow list let a lossy change pass.
    """

    vcpu: int
    action: Action
    register: int
    field: str | None
    old: int | None
    new: int | None
    verdict: Verdict
    reason: str
    rule: str
    evidence: str | None = None
    allowed: bool = False

    @property
    def target(self) -> str:
        """Register and field, by name."""
        return name_of(self.register) + (f".{self.field}" if self.field else "")

    def __str__(self) -> str:
        match self.action:
            case Action.REMOVE:
                what = f"removed (was {self.old:#x})"
            case Action.ADD:
                what = f"added as {self.new:#x}"
            case Action.SET:
                what = f"{self.old:#x} -> {self.new:#x}"
        return f"vcpu {self.vcpu}: {self.target} ({self.register:#018x}) {what}, {self.verdict}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a guest may not go there as it is. ``str()`` is the one clear sentence."""

    vcpu: int
    register: int | None
    value: int | None
    destination_value: int | None
    verdict: Verdict
    reason: str
    field: str | None = None

    def __str__(self) -> str:
        if self.register is None:
            return f"vcpu {self.vcpu}: {self.reason}"
        where = describe(self.register) if self.field is None else f"{describe(self.register)} field {self.field}"
        value = "" if self.value is None else f" = {self.value:#x}"
        theirs = "" if self.destination_value is None else f", {self.destination_value:#x} at the destination"
        return f"vcpu {self.vcpu}: {where}{value}{theirs}: {self.verdict}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that is not changed and still worth telling. ``register`` is None where it is about the whole plan."""

    vcpu: int
    register: int | None
    text: str

    def __str__(self) -> str:
        return self.text if self.register is None else f"vcpu {self.vcpu}: {describe(self.register)}: {self.text}"


@dataclass(frozen=True)
class Plan:
    """The outcome, and everything that led to it. ``vcpus`` is what came."""

    outcome: Outcome
    changes: tuple[Change, ...]
    refusals: tuple[Refusal, ...]
    notices: tuple[Notice, ...]
    vcpus: tuple[VcpuRegisters, ...]
    rewritten: tuple[VcpuRegisters, ...]

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
    acceptance = Acceptance(destination.host, knowledge) if destination.host is not None else None
    planners = [_VcpuPlanner(vcpu, destination.profile, acceptance, knowledge, allow) for vcpu in vcpus]
    for planner in planners:
        planner.run()
    refusals = [refusal for planner in planners for refusal in planner.refusals]
    rewritten = tuple(planner.result for planner in planners)
    refusals += _uneven(vcpus, rewritten)
    changes = tuple(change for planner in planners for change in planner.changes)
    loads = Outcome.LOADS_REWRITTEN if changes else Outcome.LOADS_AS_IS
    outcome = Outcome.REFUSED if refusals else loads
    notices = [notice for planner in planners for notice in planner.notices]
    if acceptance is not None:
        notices += _newer_than_known(acceptance, knowledge)
    return Plan(outcome, changes, tuple(refusals), tuple(notices), tuple(vcpus), rewritten)


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


@dataclass
class _VcpuPlanner:
    """Plans one vCPU. ``working`` is the list as it will be; conditions see the one that came."""

    vcpu: VcpuRegisters
    profile: Profile | None
    acceptance: Acceptance | None
    knowledge: Knowledge
    allow: frozenset[int]
    changes: list[Change] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stream: Mapping[int, int] = self.vcpu.registers
        self.working = dict(self.vcpu.registers)

    @property
    def destination(self) -> Mapping[int, int] | None:
        return None if self.acceptance is None else self.acceptance.registers

    @property
    def result(self) -> VcpuRegisters:
        return VcpuRegisters(self.vcpu.vcpu, CpregList(self.working))

    def run(self) -> None:
        if self.profile is not None:
            self._profile_rules(self.profile)
        if self.acceptance is None:
            return
        self._removals(self.acceptance)
        self._values(self.acceptance)
        self._repairs(self.acceptance)
        self._additions(self.acceptance)

    # 1. The profile.

    def _profile_rules(self, profile: Profile) -> None:
        decided: dict[int, tuple[str, int | None]] = {}
        for number, rule in enumerate(profile.rules):
            name = f"profile rule[{number}]"
            violation = rule.violation(self.stream, self.destination)
            if violation is not None:
                self._refuse(rule.register, self.stream.get(rule.register), None, Verdict.LOSSY, violation)
                continue
            change = rule.change(self.stream, self.destination)
            if change is None:
                continue
            if decided.setdefault(rule.register, change) != change:
                self._refuse(
                    rule.register, self.stream.get(rule.register), None, Verdict.UNKNOWN,
                    f"{name} contradicts an earlier rule for the same register",
                )  # fmt: skip
                continue
            action, new = change
            old = self.working.get(rule.register)
            if new is None:
                self.working.pop(rule.register, None)
            else:
                self.working[rule.register] = new
            if old != new:
                self._change(
                    Change(
                        self.vcpu.vcpu, Action(action), rule.register, None, old, new, rule.verdict, rule.reason, name
                    )
                )

    # 2. Registers that the destination does not have.

    def _removals(self, acceptance: Acceptance) -> None:
        for register in [register for register in self.working if register not in acceptance.registers]:
            entry = self.knowledge.entry(register)
            case = self._case(entry, CaseAction.REMOVE, None)
            value = self.working.pop(register)
            if case is None:
                reason = "the destination does not list it" + self._ignorance(entry)
                self._refuse(register, value, None, Verdict.UNKNOWN, reason)
                continue
            self._change(self._by_case(case, Action.REMOVE, register, None, value, None))

    # 3. Values that the destination does not take.

    def _values(self, acceptance: Acceptance) -> None:
        for register, value in list(self.working.items()):
            own = acceptance.registers[register]
            if value == own:
                continue
            entry = self.knowledge.entry(register)
            convert = self._case(entry, CaseAction.DESTINATION, None)
            if convert is not None and convert.always:
                self.working[register] = own
                self._change(self._by_case(convert, Action.SET, register, None, value, own))
                continue
            for mismatch in acceptance.mismatches(register, value):
                self._take_destination(entry, register, mismatch, own)

    def _take_destination(self, entry: Entry | None, register: int, mismatch: Mismatch, own: int) -> None:
        case = self._case(entry, CaseAction.DESTINATION, mismatch.field)
        self.working[register] = self.working[register] & ~mismatch.mask | own & mismatch.mask
        if case is None:
            reason = f"the destination {mismatch.why}" + self._ignorance(entry)
            self._refuse(register, mismatch.value, mismatch.destination_value, Verdict.UNKNOWN, reason, mismatch.field)
            return
        self._change(
            self._by_case(case, Action.SET, register, mismatch.field, mismatch.value, mismatch.destination_value)
        )

    # 4. Values that the destination takes and does not keep.

    def _repairs(self, acceptance: Acceptance) -> None:
        for register, case, repair in acceptance.repairs:
            value, new = self.working.get(register), repair.value(self.working)
            if value is None or new is None or value == new or not case.holds(self.stream, self.destination):
                continue
            self.working[register] = new
            self._change(self._by_case(case, Action.SET, register, None, value, new))
        for register, _, repair in acceptance.doubtful:
            if register in self.working and self.working.get(repair.complement_of):
                kept = name_of(repair.complement_of)
                text = f"passed as it is, and {kept} is lost if this kernel is as {repair}: its release does not tell"
                self.notices.append(Notice(self.vcpu.vcpu, register, text))

    # 5. Registers that only the destination has.

    def _additions(self, acceptance: Acceptance) -> None:
        for register, own in acceptance.registers.items():
            self._enable(acceptance, register)
            if register in self.working:
                continue
            entry = self.knowledge.entry(register)
            absent = entry.absent if entry is not None else None
            text = absent or f"the destination keeps its own value, {own:#x}"
            self.notices.append(Notice(self.vcpu.vcpu, register, f"not in the stream: {text}"))

    def _enable(self, acceptance: Acceptance, register: int) -> None:
        """Raise the field that makes the destination's kernel show ``register``, if the stream has it off."""
        entry = self.knowledge.entry(register)
        enabled_by = None if entry is None else entry.enabled_by
        if enabled_by is None or acceptance.kernel is None or acceptance.kernel < enabled_by.since:
            return
        value, own = self.working.get(enabled_by.register), acceptance.registers.get(enabled_by.register)
        if value is None or own is None:
            return
        id_field = field_named(enabled_by.register, enabled_by.field)
        if id_field.get(value) or not id_field.get(own):
            return
        case = self._case(self.knowledge.entry(enabled_by.register), CaseAction.RAISE, enabled_by.field)
        old, new = id_field.get(value), id_field.get(own)
        self.working[enabled_by.register] = id_field.put(value, new)
        if case is None:
            reason = f"while it is off, the destination's kernel hides {name_of(register)} and QEMU's load fails"
            self._refuse(enabled_by.register, old, new, Verdict.UNKNOWN, reason, enabled_by.field)
            return
        self._change(self._by_case(case, Action.SET, enabled_by.register, enabled_by.field, old, new))

    # What all of them need.

    def _case(self, entry: Entry | None, action: CaseAction, field_name: str | None) -> Case | None:
        return None if entry is None else entry.case(action, field_name, self.stream, self.destination)

    def _by_case(
        self, case: Case, action: Action, register: int, field_name: str | None, old: int | None, new: int | None
    ) -> Change:
        verdict, reason, evidence = case.verdict, case.reason, case.evidence
        return Change(self.vcpu.vcpu, action, register, field_name, old, new, verdict, reason, "knowledge", evidence)

    def _ignorance(self, entry: Entry | None) -> str:
        return ", and nothing is known of it" if entry is None else ", and no known case covers it"

    def _change(self, change: Change) -> None:
        """Take a change, or refuse by its verdict."""
        if change.verdict <= Verdict.NEUTRAL:
            self.changes.append(change)
        elif change.verdict is Verdict.LOSSY and change.register in self.allow:
            self.changes.append(replace(change, allowed=True))
        else:
            hint = (
                "" if change.verdict is Verdict.UNKNOWN else f' (allow = ["{name_of(change.register)}"] accepts that)'
            )
            self._refuse(change.register, change.old, change.new, change.verdict, change.reason + hint, change.field)

    def _refuse(
        self,
        register: int,
        value: int | None,
        destination_value: int | None,
        verdict: Verdict,
        reason: str,
        field_name: str | None = None,
    ) -> None:
        self.refusals.append(Refusal(self.vcpu.vcpu, register, value, destination_value, verdict, reason, field_name))
