"""The rule that would have fitted a failure, as data to be reviewed. It is never applied by itself.

From what was seen to go wrong on a destination (:mod:`.observation`), the registers of the stream and the description
of the host, rules are drafted as a profile has them, and entries as the knowledge base has them. Where the knowledge
base already has a case that holds, its verdict is taken over; everywhere else the verdict is ``lossy``, and a person
has to argue for a better one. ``proposal_toml.py`` writes it down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from formats.arm64.id_fields import field_named, fields_of, is_id_register, registers_with_fields
from formats.arm64.register_id import describe, name_of
from proxyd.rewrite.acceptance import Acceptance
from proxyd.rewrite.draft import ARGUE, DraftCase, DraftRule, Proposal, condition_name, fields_hold, whole_fields
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import CaseAction, EnabledBy, Knowledge
from proxyd.rewrite.observation import Observation, ObservationKind
from proxyd.rewrite.plan import VcpuRegisters
from proxyd.rewrite.rules import TIMERS
from proxyd.rewrite.vcpu_features import described_for, features_of
from proxyd.rewrite.verdict import Verdict


def propose(
    seen: Sequence[Observation], vcpus: Sequence[VcpuRegisters], host: HostDescription | None, knowledge: Knowledge
) -> Proposal:
    """Draft rules for what was ``seen``, for a stream with these ``vcpus``."""
    if host is not None and vcpus:
        host, _ = described_for(host, features_of(vcpus[0].registers), knowledge)
    drafter = _Drafter([one.registers for one in vcpus], host, knowledge)
    for observation in seen:
        drafter.take(observation)
    return Proposal(tuple(drafter.rules.values()), tuple(drafter.cases), tuple(dict.fromkeys(drafter.remarks)))


@dataclass
class _Drafter:
    streams: Sequence[Mapping[int, int]]
    host: HostDescription | None
    knowledge: Knowledge
    rules: dict[int, DraftRule] = field(default_factory=dict)
    cases: list[DraftCase] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.acceptance = None if self.host is None else Acceptance(self.host, self.knowledge)

    @property
    def own(self) -> Mapping[int, int]:
        """The destination's registers, as far as they are described."""
        return {} if self.host is None else self.host.registers

    def take(self, seen: Observation) -> None:
        """One observation: a rule, or a remark why there is none."""
        if seen.register in TIMERS and seen.kind is not ObservationKind.OTHER_ERROR:
            self.remarks.append(f"{describe(seen.register or 0)}: no rule: the guest's time would jump")
            return
        match seen.kind:
            case ObservationKind.NOT_LISTED:
                self._not_listed(seen)
            case ObservationKind.REFUSED:
                self._refused(seen)
            case ObservationKind.HIDDEN:
                self._hidden(seen)
            case ObservationKind.CHANGED:
                self._changed(seen)
            case ObservationKind.OTHER_ERROR:
                where = "a register" if seen.register is None else describe(seen.register)
                self.remarks.append(f"{where}: {seen.errno or 'this error'} has no cause in the stream: {seen.said}")
            case ObservationKind.SOME_NOT_LISTED:
                self._some(seen, list(self._unlisted()), "a register that the destination does not list")
            case ObservationKind.SOME_REFUSED:
                suspects = [*self._unaccepted(), *self._hidden_ones()]
                self._some(seen, suspects, "a value that the destination does not take")

    # Where no register is named: what the description says.

    def _some(self, seen: Observation, suspects: Sequence[Observation], what: str) -> None:
        for suspect in suspects:
            self.take(replace(suspect, said=seen.said))
        if suspects:
            return
        if self.host is None:
            self.remarks.append(f"{what}, and none is named: the host description would tell, give --destination")
        else:
            self.remarks.append(
                f"{what}, and by the description of {self.host.name} there is none: it is not this host's, or its list "
                "is for other vCPU features; make a new one there with proxyd probe. QEMU 10.2 and newer name registers"
            )

    def _all(self) -> list[int]:
        return sorted({register for stream in self.streams for register in stream})

    def _unlisted(self) -> Iterator[Observation]:
        for register in self._all():
            if self.host is not None and register not in self.own:
                yield Observation(ObservationKind.NOT_LISTED, "", register)

    def _unaccepted(self) -> Iterator[Observation]:
        for register in self._all():
            if register in self.own and self._refused_mask(register):
                yield Observation(ObservationKind.REFUSED, "", register)

    def _hidden_ones(self) -> Iterator[Observation]:
        kernel = None if self.acceptance is None else self.acceptance.kernel
        for register in self.own:
            entry = self.knowledge.entry(register)
            by = None if entry is None else entry.enabled_by
            if (
                by is not None
                and kernel is not None
                and kernel >= by.since
                and self._switched_off(by.register, by.field)
            ):
                yield Observation(ObservationKind.HIDDEN, "", register)

    # One register.

    def _not_listed(self, seen: Observation) -> None:
        register = seen.register or 0
        values = {stream.get(register) for stream in self.streams}
        if values == {None} or not values:
            self.remarks.append(f"{describe(register)}: the stream does not have it: {seen.said}")
            return
        remarks = []
        if register in self.own:
            remarks.append(
                "the host description lists it: it is not this host's, or for other vCPU features; probe anew"
            )
        known = self._known(register, CaseAction.REMOVE, (None,))
        if self._forbidden(register, known):
            return
        if known is not None:
            when, verdict, reason = known
        else:
            (value, *others) = values
            when = None if others or value is None else f"{condition_name(register)} == {value:#x}"
            verdict, reason = (
                Verdict.LOSSY,
                f"{ARGUE}: the destination does not list it; why does the guest not miss it?",
            )
            evidence = f"proposal: {seen.said}"
            self.cases.append(DraftCase(register, CaseAction.REMOVE, (), when, reason, evidence))
        self._add(DraftRule(register, "remove", when, verdict, reason, (seen.said,), tuple(remarks)))

    def _refused(self, seen: Observation) -> None:
        register = seen.register or 0
        if self.host is not None and register not in self.own and seen.own is None:
            self._not_listed(seen)
            return
        own = self.own.get(register) if seen.own is None else seen.own
        values = sorted({stream[register] for stream in self.streams if register in stream})
        if own is None or not values or values == [own]:
            self.remarks.append(f"{describe(register)}: {_no_set(own, values)}: {seen.said}")
            return
        remarks = []
        if seen.wanted is not None and seen.wanted not in values:
            remarks.append(
                f"sent was {seen.wanted:#x}, which the stream does not have: proxyd had changed it on the way"
            )
        if seen.own is not None and self.own.get(register, own) != own:
            remarks.append(f"the host description says {self.own[register]:#x}: it is not this host's; probe anew")
        if is_id_register(register):
            self._set_fields(seen, register, own, values, tuple(remarks))
        else:
            self._set_value(seen, register, own, values, tuple(remarks))

    def _set_value(
        self, seen: Observation, register: int, own: int, values: Sequence[int], remarks: tuple[str, ...]
    ) -> None:
        known = self._known(register, CaseAction.DESTINATION, (None,))
        if self._forbidden(register, known):
            return
        when = f"{condition_name(register)} == {values[0]:#x}" if len(values) == 1 else None
        if known is not None:
            when, verdict, reason = _both(when, known[0]), known[1], known[2]
        else:
            verdict, reason = Verdict.LOSSY, f"{ARGUE}: the destination refuses the value; what is lost by its own?"
            accepts = "at-most" if all(value > own for value in values) else "equal"
            evidence = f"proposal: {seen.said}"
            self.cases.append(DraftCase(register, CaseAction.DESTINATION, (), None, reason, evidence, accepts))
        self._add(DraftRule(register, "set", when, verdict, reason, (seen.said,), remarks, own))

    def _set_fields(
        self, seen: Observation, register: int, own: int, values: Sequence[int], remarks: tuple[str, ...]
    ) -> None:
        differing = 0
        for value in values:
            differing |= whole_fields(register, value ^ own)
        mask = self._refused_mask(register) & differing or differing
        if seen.wanted is not None and seen.wanted not in values:
            mask = whole_fields(register, seen.wanted ^ own)  # what proxyd's plan had left as it was
        names = tuple(one.name for one in fields_of(register) if one.mask & mask)
        when = fields_hold(register, mask, values[0]) if len({value & mask for value in values}) == 1 else None
        known = self._known(register, CaseAction.DESTINATION, names) if names else None
        if self._forbidden(register, known):
            return
        if known is not None:
            when, verdict, reason = _both(when, known[0]), known[1], known[2]
        else:
            verdict, reason = Verdict.LOSSY, f"{ARGUE}: the destination refuses the field; does the guest use it?"
            evidence = f"proposal: {seen.said}"
            self.cases.append(DraftCase(register, CaseAction.DESTINATION, names, None, reason, evidence))
        self._add(DraftRule(register, "set-bits", when, verdict, reason, (seen.said,), remarks, own & mask, mask))

    def _hidden(self, seen: Observation) -> None:
        register = seen.register or 0
        entry = self.knowledge.entry(register)
        by = None if entry is None else entry.enabled_by
        if by is not None:
            self._raise(seen, by, by.register, by.field)
            return
        suspects = [
            (one, id_field.name)
            for one in registers_with_fields()
            if is_id_register(one)
            for id_field in fields_of(one)
            if self._switched_off(one, id_field.name)
        ]
        if len(suspects) == 1:
            self._raise(seen, None, *suspects[0])
            return
        found = ", ".join(f"{name_of(one)}.{name}" for one, name in suspects) or "none by the host description"
        self.remarks.append(
            f"{describe(register)}: an ID register's field that the stream has off hides it; which is not known. "
            f"Fields that are on at the destination and off in the stream: {found}"
        )

    def _raise(self, seen: Observation, by: EnabledBy | None, register: int, name: str) -> None:
        """Keep a field on that hides another register while it is off."""
        hidden = seen.register or 0
        id_field = field_named(register, name)
        if not self._switched_off(register, name):
            self.remarks.append(
                f"{describe(hidden)}: {name_of(register)}.{name} hides it while it is 0, and by stream and host "
                f"description it is not 0 on one side only: {seen.said}"
            )
            return
        own = self.own[register]
        known = self._known(register, CaseAction.RAISE, (name,))
        if self._forbidden(register, known):
            return
        when, verdict, reason = (
            f"{name_of(register)}.{name} == 0",
            Verdict.LOSSY,
            f"{ARGUE}: it hides {name_of(hidden)}",
        )
        if known is not None:
            verdict, reason = known[1], known[2]
        else:
            evidence = f"proposal: {seen.said}"
            self.cases.append(DraftCase(register, CaseAction.RAISE, (name,), None, reason, evidence))
        if by is None:
            enabled_by = f"{name_of(register)}.{name}"
            self.cases.append(DraftCase(hidden, None, (), None, "", "", enabled_by=enabled_by))
        mask = id_field.mask
        self._add(DraftRule(register, "set-bits", when, verdict, reason, (seen.said,), (), own & mask, mask))

    def _changed(self, seen: Observation) -> None:
        register = seen.register or 0
        if seen.own is None or not any(register in stream for stream in self.streams):
            self.remarks.append(f"{describe(register)}: the stream does not have it: {seen.said}")
            return
        when = f"{condition_name(register)} == {seen.own:#x}"
        reason = f"{ARGUE}: the destination takes other values and does not keep them"
        remark = "until somebody knows better, a guest with another value stays on its source"
        self._add(DraftRule(register, "require", when, Verdict.LOSSY, reason, (seen.said,), (remark,)))

    # What all of them need.

    def _known(
        self, register: int, action: CaseAction, names: Sequence[str | None]
    ) -> tuple[str | None, Verdict, str] | None:
        """Condition, worst verdict and reasons of the knowledge base's cases, if it has one that holds for all."""
        entry = self.knowledge.entry(register)
        if entry is None:
            return None
        found = [entry.case(action, name, stream, self.own) for name in names for stream in self.streams]
        cases = [case for case in found if case is not None]
        if len(cases) < len(found) or not cases:
            return None
        conditions = list(dict.fromkeys(str(case.when) for case in cases if case.when is not None))
        when = conditions[0] if len(conditions) == 1 else " and ".join(f"({one})" for one in conditions)
        reasons = dict.fromkeys(case.reason for case in cases)
        return when or None, max(case.verdict for case in cases), "; ".join(reasons)

    def _forbidden(self, register: int, known: tuple[str | None, Verdict, str] | None) -> bool:
        """Whether the knowledge base has a case that no operator can allow: then nothing is proposed either."""
        if known is None or known[1] is not Verdict.UNKNOWN:
            return False
        self.remarks.append(f"{describe(register)}: no rule, by what is known: {known[2]}")
        return True

    def _refused_mask(self, register: int) -> int:
        """The bits that the destination does not take, by its description."""
        mask = 0
        if self.acceptance is not None and register in self.own:
            for stream in self.streams:
                if register in stream:
                    for mismatch in self.acceptance.mismatches(register, stream[register]):
                        mask |= 0 if mismatch.silent else mismatch.mask
        return mask

    def _switched_off(self, register: int, name: str) -> bool:
        """Whether a field is 0 in the stream and not at the destination."""
        id_field = field_named(register, name)
        values = [stream[register] for stream in self.streams if register in stream]
        return bool(
            values and all(id_field.get(value) == 0 for value in values) and id_field.get(self.own.get(register, 0))
        )

    def _add(self, rule: DraftRule) -> None:
        """One rule for each register: a profile's rules all start from the value as it came."""
        before = self.rules.get(rule.register)
        if before is None:
            self.rules[rule.register] = rule
        elif before.kind == rule.kind == "set-bits":
            self.rules[rule.register] = before.and_bits_of(rule)
        elif before.kind != rule.kind:
            self.remarks.append(f"{describe(rule.register)}: also seen, and not covered: {'; '.join(rule.said)}")


def _both(seen: str | None, known: str | None) -> str | None:
    """What was seen, where the knowledge base's condition holds too."""
    if seen is None or known is None:
        return seen or known
    return f"{seen} and ({known})" if " or " in known else f"{seen} and {known}"


def _no_set(own: int | None, values: Sequence[int]) -> str:
    if not values:
        return "the stream does not have it: the destination's QEMU wrote a value of its own"
    if own is None:
        return "the destination's own value is not known: its host description would tell, give --destination"
    return "the stream has the destination's value already: proxyd had changed it on the way, or another stream failed"
