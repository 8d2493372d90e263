"""The knowledge base: what is known of each register, as data that a kernel developer can review.

The TOML files in ``proxyd/knowledge`` hold one entry per register, or per group of registers that behave alike:

    [[entry]]
    registers  = ["TCR2_EL1"]
    listed     = "6.5 to 6.12: always; from 6.13: if ID_AA64MMFR3_EL1.TCRX"      # for people
    accepts    = [{ until = "6.2", values = "equal" }, { values = "any" }]       # by the destination's kernel
    enabled_by = { field = "ID_AA64MMFR3_EL1.TCRX", since = "6.13" }             # else the kernel hides the register
    [[entry.case]]
    action   = "remove"                          # see CaseAction
    when     = "ID_AA64MMFR3_EL1.TCRX == 0"      # over the stream's registers; without it: always
    verdict  = "proven"
    reason   = "..."
    evidence = "..."

A case about an ID register names its ``field``, or ``fields`` that are worth the same. Cases are tried in order, the
first whose condition holds decides. Nothing here does anything: ``plan.py`` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

import msgspec

from formats.arm64.id_fields import field_named
from formats.arm64.register_id import id_of
from proxyd.rewrite.conditions import Condition
from proxyd.rewrite.kernel import KernelRange, KernelRelease, parse_kernel
from proxyd.rewrite.verdict import Verdict


class KnowledgeError(ValueError):
    """A file of the knowledge base is wrong. The message names file, entry and what is accepted."""


class Accepts(StrEnum):
    """Which values KVM_SET_ONE_REG takes for a register or an ID register's field."""

    ANY = "any"
    EQUAL = "equal"  # only the host's own value
    AT_MOST = "at-most"  # not above the host's own value
    SUBSET = "subset"  # no bit that the host's own value lacks


class CaseAction(StrEnum):
    """What a case is about."""

    REMOVE = "remove"  # the destination has no such register
    DESTINATION = "destination"  # the destination does not take the value: send its own
    RAISE = "raise"  # the field must be on, else a register that the destination lists cannot be written
    REPAIR = "repair"  # the destination takes the value and does not keep it: send another that comes to the same


@dataclass(frozen=True, slots=True)
class Repair:
    """How to send a value that some kernels take and do not keep: as the complement of another register's 32 bits.

    ``patch`` is the newest stable update of the last of ``kernels`` that is known to need it. A later one may have been
    mended, and then the repair would be the loss. The same holds for a vendor's kernel that calls itself
    ``6.12.0-55.el10`` or ``6.8.0-31-generic``, whatever was backported to it: an update of 0, or none, says nothing.
    """

    kernels: KernelRange
    patch: int | None
    complement_of: int

    def __str__(self) -> str:
        """Which destinations, for people."""
        last = self.kernels.last if self.patch is None else f"{self.kernels.last}.{self.patch}"
        return f"Linux {self.kernels.first} to {last}"

    def concerns(self, kernel: KernelRelease | None, patch: int | None) -> bool:
        """Whether a destination's kernel is one of them, for certain."""
        if kernel is None or kernel not in self.kernels or not patch:
            return False
        return self.patch is None or kernel != self.kernels.last or patch <= self.patch

    def value(self, registers: Mapping[int, int]) -> int | None:
        """The value to send, if the other register is there."""
        other = registers.get(self.complement_of)
        return None if other is None else ~other & 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Case:
    """One situation and what it is worth."""

    action: CaseAction
    field: str | None
    when: Condition | None
    verdict: Verdict
    reason: str
    evidence: str
    always: bool
    repair: Repair | None = None

    def holds(self, stream: Mapping[int, int], destination: Mapping[int, int] | None) -> bool:
        """Whether the case applies to this vCPU."""
        return self.when is None or self.when.holds(stream, destination)


@dataclass(frozen=True, slots=True)
class EnabledBy:
    """From ``since`` on a kernel hides the register from a vCPU whose ID register field is 0."""

    register: int
    field: str
    since: KernelRelease


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one register."""

    register: int
    listed: str
    accepts: tuple[tuple[KernelRange, str | None, Accepts], ...]
    enabled_by: EnabledBy | None
    absent: str | None
    cases: tuple[Case, ...]

    def acceptance(self, kernel: KernelRelease | None, field_name: str | None = None) -> Accepts | None:
        """What a kernel takes; None where nothing special is known. An unknown kernel gets the strictest answer."""
        known = [(span, accepts) for span, name, accepts in self.accepts if name == field_name]
        if kernel is None:
            return min((accepts for _, accepts in known), key=list(_STRICTEST).index, default=None)
        return next((accepts for span, accepts in known if kernel in span), None)

    def case(
        self,
        action: CaseAction,
        field_name: str | None,
        stream: Mapping[int, int],
        destination: Mapping[int, int] | None,
    ) -> Case | None:
        """The first case for this action (and field) that holds."""
        for case in self.cases:
            if case.action is action and case.field == field_name and case.holds(stream, destination):
                return case
        return None


_STRICTEST: Final = (Accepts.EQUAL, Accepts.AT_MOST, Accepts.SUBSET, Accepts.ANY)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """All entries, and the writable masks of ID registers by kernel (measured; they do not depend on the CPU)."""

    entries: Mapping[int, Entry] = field(default_factory=dict)
    masks: Mapping[KernelRelease, Mapping[int, int]] = field(default_factory=dict)

    def repairs(
        self, kernel: KernelRelease | None, patch: int | None, *, certain: bool = True
    ) -> Sequence[tuple[int, Case, Repair]]:
        """Registers whose values this kernel takes without keeping them, and what to do about each.

        With ``certain=False`` those where that is only possible: by its release, while its update says nothing.
        """
        return [
            (register, case, case.repair)
            for register, entry in self.entries.items()
            for case in entry.cases
            if case.repair is not None
            and kernel is not None
            and kernel in case.repair.kernels
            and case.repair.concerns(kernel, patch) is certain
        ]

    def entry(self, register: int) -> Entry | None:
        """What is known of a register."""
        return self.entries.get(register)

    def writable_masks(self, kernel: KernelRelease) -> Mapping[int, int]:
        """Bits of ID registers that a kernel lets userspace lower.

        A kernel between two known ones gets what both allow; one newer than all, the newest's; one older, none.
        """
        older = max((known for known in self.masks if known <= kernel), default=None)
        newer = min((known for known in self.masks if known >= kernel), default=None)
        if older is None:
            return {}
        if newer is None:
            return self.masks[older]
        low, high = self.masks[older], self.masks[newer]
        return {register: mask & high[register] for register, mask in low.items() if register in high}

    @property
    def newest_kernel(self) -> KernelRelease | None:
        """The newest release that was measured."""
        return max(self.masks, default=None)

    @staticmethod
    def parse(files: Iterable[tuple[str, bytes]]) -> Knowledge:
        """Build from (name, TOML) pairs. Raises :class:`KnowledgeError`."""
        entries: dict[int, Entry] = {}
        masks: dict[KernelRelease, Mapping[int, int]] = {}
        for name, data in files:
            try:
                parsed = msgspec.toml.decode(data, type=_File)
            except msgspec.DecodeError as error:
                raise KnowledgeError(f"{name}: {error}") from error
            for number, raw in enumerate(parsed.entry):
                for entry in _entries(raw, f"{name}: entry[{number}]"):
                    if entry.register in entries:
                        raise KnowledgeError(f"{name}: entry[{number}]: {raw.registers} has an entry already")
                    entries[entry.register] = entry
            for release, table in parsed.masks.items():
                masks[_release(release, f"{name}: masks")] = {
                    id_of(key): int(value, 16) for key, value in table.items()
                }
        return Knowledge(entries, masks)

    @staticmethod
    def builtin() -> Knowledge:
        """The knowledge base that proxyd ships."""
        return _builtin()


@cache
def _builtin() -> Knowledge:
    folder = resources.files("proxyd.knowledge")
    files = sorted((path for path in folder.iterdir() if path.name.endswith(".toml")), key=lambda path: path.name)
    return Knowledge.parse((path.name, path.read_bytes()) for path in files)


class _Accept(msgspec.Struct, forbid_unknown_fields=True):
    values: Accepts
    field: str | None = None
    since: str | None = None
    until: str | None = None


class _EnabledBy(msgspec.Struct, forbid_unknown_fields=True):
    field: str
    since: str


class _Repair(msgspec.Struct, forbid_unknown_fields=True):
    complement_of: str
    since: str
    until: str
    patch: int | None = None


class _Case(msgspec.Struct, forbid_unknown_fields=True):
    action: CaseAction
    verdict: Literal["proven", "neutral", "lossy"]
    reason: str
    evidence: str
    field: str | None = None
    fields: list[str] = []
    when: str | None = None
    always: bool = False
    repair: _Repair | None = None


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    registers: list[str]
    listed: str
    accepts: list[_Accept] = []
    enabled_by: _EnabledBy | None = None
    absent: str | None = None
    case: list[_Case] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    entry: list[_Entry] = []
    masks: dict[str, dict[str, str]] = {}


def _release(text: str, where: str) -> KernelRelease:
    release = parse_kernel(text)
    if release is None:
        raise KnowledgeError(f"{where}: kernel release such as 6.12 expected, found {text!r}")
    return release


def _entries(raw: _Entry, where: str) -> Iterable[Entry]:
    try:
        for name in raw.registers:
            register = id_of(name)
            yield Entry(
                register,
                raw.listed,
                tuple(_accepts(accept, register, where) for accept in raw.accepts),
                _enabled_by(raw.enabled_by, where),
                raw.absent,
                tuple(
                    case
                    for number, raw_case in enumerate(raw.case)
                    for case in _cases(raw_case, register, f"{where}.case[{number}]")
                ),
            )
    except KnowledgeError:
        raise
    except ValueError as error:
        raise KnowledgeError(f"{where}: {error}") from error


def _accepts(raw: _Accept, register: int, where: str) -> tuple[KernelRange, str | None, Accepts]:
    if raw.field is not None:
        field_named(register, raw.field)
    first = _release(raw.since, where) if raw.since else None
    last = _release(raw.until, where) if raw.until else None
    return KernelRange(first, last), raw.field, raw.values


def _enabled_by(raw: _EnabledBy | None, where: str) -> EnabledBy | None:
    if raw is None:
        return None
    register_name, _, field_name = raw.field.partition(".")
    register = id_of(register_name)
    field_named(register, field_name)
    return EnabledBy(register, field_name, _release(raw.since, where))


def _cases(raw: _Case, register: int, where: str) -> Iterable[Case]:
    """One case, or one for each of its ``fields``."""
    if raw.fields and raw.field is not None:
        raise KnowledgeError(f"{where}: field or fields expected, found both")
    texts: dict[str, Any] = {"reason": raw.reason, "evidence": raw.evidence}
    for key, text in texts.items():
        if not text.strip():
            raise KnowledgeError(f"{where}.{key}: a sentence expected, found nothing")
    when = None if raw.when is None else Condition.parse(raw.when, f"{where}.when")
    if (raw.action is CaseAction.REPAIR) != (raw.repair is not None):
        raise KnowledgeError(f"{where}: a table repair expected with action repair, and only with it")
    repair = None if raw.repair is None else _repair(raw.repair, where)
    names: list[str | None] = [*raw.fields] or [raw.field]
    for name in names:
        if name is not None:
            field_named(register, name)
        yield Case(raw.action, name, when, Verdict(raw.verdict), raw.reason, raw.evidence, raw.always, repair)


def _repair(raw: _Repair, where: str) -> Repair:
    kernels = KernelRange(_release(raw.since, where), _release(raw.until, where))
    return Repair(kernels, raw.patch, id_of(raw.complement_of))
