"""Plans one vCPU: what has to change, in which order, and what each change is worth. ``plan.py`` says the order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from formats.arm64.cpreg_list import CpregList
from formats.arm64.id_fields import IdField, field_named
from formats.arm64.register_id import name_of
from proxyd.rewrite.acceptance import Acceptance, Mismatch
from proxyd.rewrite.changes import Action, Change, Notice, Refusal, VcpuRegisters
from proxyd.rewrite.knowledge import Case, CaseAction, EnabledBy, Entry, Knowledge
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.verdict import Verdict


@dataclass
class VcpuPlanner:
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
        self._provide(self.acceptance)

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
                text = (
                    f"{kept} is lost if this kernel is as {repair}, and its release does not tell: "
                    "a description by proxyd probe does"
                )
                value = self.working[register]
                idle = repair.idle is not None and repair.idle.holds(self.stream, self.destination)
                if idle or register in self.allow:
                    self.notices.append(Notice(self.vcpu.vcpu, register, f"passed as it is; {text}"))
                else:
                    self._refuse_with_hint(register, value, None, Verdict.LOSSY, text)

    # 5. Registers that only the destination has.

    def _additions(self, acceptance: Acceptance) -> None:
        for register in sorted(acceptance.registers.keys() - self.working.keys()):
            self._absent(acceptance, register, acceptance.registers[register])
        for register, enabled_by in acceptance.enabled_by:
            self._enable(acceptance, register, enabled_by)
        for entry in acceptance.telling:
            case = self._case(entry, CaseAction.NOTICE, None)
            if case is not None and entry.register in self.working:
                self.notices.append(Notice(self.vcpu.vcpu, entry.register, case.reason))

    def _absent(self, acceptance: Acceptance, register: int, own: int) -> None:
        """The destination makes a value up: known to be harmless, or replaced, or a reason to refuse."""
        case = self._case(self.knowledge.entry(register), CaseAction.ABSENT, None)
        if case is not None and case.value is not None:
            self.working[register] = case.value
            self._change(self._by_case(case, Action.ADD, register, None, None, case.value))
        elif case is not None and (case.verdict <= Verdict.NEUTRAL or register in self.allow):
            self.notices.append(Notice(self.vcpu.vcpu, register, f"not in the stream: {case.reason}"))
        elif case is not None:
            reason = f"not in the stream: {case.reason}"
            self._refuse_with_hint(register, None, own, case.verdict, reason)
        elif acceptance.accelerator == "tcg":
            # What TCG lists changes with its version, and what it does not migrate it resets.
            text = f"not in the stream: the destination keeps its own value, {own:#x}"
            self.notices.append(Notice(self.vcpu.vcpu, register, text))
        else:
            reason = "not in the stream: the guest would go on with a value that the destination makes up"
            self._refuse(register, None, own, Verdict.UNKNOWN, reason)

    def _enable(self, acceptance: Acceptance, register: int, enabled_by: EnabledBy) -> None:
        """Raise the field that makes the destination's kernel show ``register``, if the stream has it off."""
        value, own = self.working.get(enabled_by.register), acceptance.registers.get(enabled_by.register)
        if value is None or own is None:
            return
        id_field = field_named(enabled_by.register, enabled_by.field)
        if id_field.get(value) or not id_field.get(own):
            return
        why = f"while it is off, the destination's kernel hides {name_of(register)} and QEMU's load fails"
        self._raise(enabled_by.register, id_field, own, why)

    def _raise(self, register: int, id_field: IdField, own: int, why: str) -> None:
        """Turn a field on, to the destination's value; ``why`` is said where nothing is known of that."""
        case = self._case(self.knowledge.entry(register), CaseAction.RAISE, id_field.name)
        old, new = id_field.get(self.working[register]), id_field.get(own)
        self.working[register] = id_field.put(self.working[register], new)
        if case is None:
            self._refuse(register, old, new, Verdict.UNKNOWN, why, id_field.name)
            return
        self._change(self._by_case(case, Action.SET, register, id_field.name, old, new))

    def _provide(self, acceptance: Acceptance) -> None:
        """Raise the fields without which the destination's kernel would show the guest 0 in others that it has."""
        for register, needs in acceptance.unmet(self.working):
            own = acceptance.registers.get(needs.other, 0)
            other = field_named(needs.other, needs.other_field)
            if other.get(own):
                self._raise(needs.other, other, own, f"while it is off, {name_of(register)}.{needs.field} reads 0")
                continue
            hidden = field_named(register, needs.field)
            why = f"shows it as 0 without {name_of(needs.other)}.{needs.other_field}"
            mismatch = Mismatch(hidden.name, hidden.mask, hidden.get(self.working[register]), 0, why, silent=True)
            self._take_destination(self.knowledge.entry(register), register, mismatch, 0)

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
            self._refuse_with_hint(change.register, change.old, change.new, change.verdict, change.reason, change.field)

    def _refuse_with_hint(
        self,
        register: int,
        value: int | None,
        destination_value: int | None,
        verdict: Verdict,
        reason: str,
        field_name: str | None = None,
    ) -> None:
        """Refuse, and say how the operator may allow it."""
        hint = "" if verdict is Verdict.UNKNOWN else f' (allow = ["{name_of(register)}"] accepts that)'
        self._refuse(register, value, destination_value, verdict, reason + hint, field_name)

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
