"""The knowledge base: what is known of each register, as data that a kernel developer can review.

The TOML files in ``proxyd/knowledge`` hold one entry per register, or per group of registers that behave alike;
``knowledge_file.py`` has the format. Cases are tried in order, the first whose condition holds decides. Nothing here
does anything: ``plan.py`` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib import resources

from proxyd.rewrite.conditions import Condition
from proxyd.rewrite.kernel import KernelRange, KernelRelease
from proxyd.rewrite.verdict import Verdict


class Accepts(StrEnum):
    """Which values KVM_SET_ONE_REG takes for a register or an ID register's field."""

    ANY = "any"
    EQUAL = "equal"  # only the host's own value
    AT_MOST = "at-most"  # not above the host's own value
    AT_LEAST = "at-least"  # not below the host's own value
    COUNTERS = "counters"  # no bit but those of the host's event counters (PMCR_EL0.N) and of the cycle counter
    SUBSET = "subset"  # no bit that the host's own value lacks


class CaseAction(StrEnum):
    """What a case is about."""

    REMOVE = "remove"  # the destination has no such register
    DESTINATION = "destination"  # the destination does not take the value: send its own
    RAISE = "raise"  # the field must be on, else a register that the destination lists cannot be written
    REPAIR = "repair"  # the destination takes the value and does not keep it: send another that comes to the same
    ABSENT = "absent"  # the stream has no such register: add it with the case's value, or leave the destination's own
    NOTICE = "notice"  # nothing is changed, and the guest may notice something all the same


@dataclass(frozen=True, slots=True)
class Repair:
    """How to send a value that some kernels take and do not keep: as the complement of another register's 32 bits.

    ``patch`` is the newest stable update of the last of ``kernels`` that is known to need it. A later one may have been
    mended, and then the repair would be the loss. The same holds for a vendor's kernel that calls itself
    ``6.12.0-55.el10`` or ``6.8.0-31-generic``, whatever was backported to it: an update of 0, or none, says nothing.
    While ``idle`` holds, what would be lost has no effect, so that a doubt is told and does not refuse the guest.
    """

    kernels: KernelRange
    patch: int | None
    complement_of: int
    idle: Condition | None = None

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
    always: bool = False
    repair: Repair | None = None
    value: int | None = None
    """For ``absent``: what the source's kernel would have said; None leaves what the destination makes up."""

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
class Needs:
    """From ``since`` on a kernel shows a guest 0 in ``field`` of an ID register, whatever was written there, unless
    another register's field is on."""

    field: str
    other: int
    other_field: str
    since: KernelRelease


@dataclass(frozen=True, slots=True)
class Listing:
    """Some kernels list the register: always, with a vCPU ``feature``, or if a condition over the host's own registers
    holds. ``sometimes`` says what it depends on that no register tells."""

    kernels: KernelRange
    feature: str | None = None
    when: Condition | None = None
    sometimes: str | None = None

    def __str__(self) -> str:
        depends = [f"with {self.feature}"] if self.feature else []
        depends += [f"if {self.when}"] if self.when else []
        depends += [self.sometimes] if self.sometimes else []
        return f"{self.kernels}: {', '.join(depends) or 'always'}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """Which values some kernels take for the register, or for one field of it.

    ``silent``: another value is no error; the kernel goes on with its own. Nobody would tell the guest."""

    kernels: KernelRange
    field: str | None
    values: Accepts
    silent: bool = False

    def __str__(self) -> str:
        return (
            f"{f'field {self.field}: ' if self.field else ''}{self.values.value} ({self.kernels})"
            f"{', another is ignored without an error' if self.silent else ''}"
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one register. ``evidence`` is for the list and the values; cases have their own."""

    register: int
    listing: tuple[Listing, ...]
    accepts: tuple[Accepted, ...]
    enabled_by: EnabledBy | None
    evidence: str
    cases: tuple[Case, ...]
    needs: tuple[Needs, ...] = ()

    @property
    def listed(self) -> str:
        """Which kernels list it and when, for people."""
        return "; ".join(map(str, self.listing)) or "never by KVM"

    def is_listed(self, kernel: KernelRelease, features: Collection[str], registers: Mapping[int, int]) -> bool | None:
        """Whether a kernel lists it for a vCPU with these features and registers; None where that cannot be told."""
        for listing in self.listing:
            if kernel in listing.kernels:
                if listing.feature is not None and listing.feature not in features:
                    return False
                if listing.when is not None and not listing.when.holds(registers, None):
                    return False
                return None if listing.sometimes else True
        return False

    def accepted(self, kernel: KernelRelease | None, field_name: str | None = None) -> tuple[Accepted, ...]:
        """What a kernel takes, as rules that all apply. An unknown kernel gets the rules of all."""
        return tuple(
            rule for rule in self.accepts if rule.field == field_name and (kernel is None or kernel in rule.kernels)
        )

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


@dataclass(frozen=True, slots=True)
class QemuLoader:
    """What some versions of QEMU make of a register list that is not their own (target/arm/machine.c: cpu_post_load).

    ``longer``: whether a list longer than their own may load at all. ``dropped_above``: whether registers above the
    highest that they have are dropped without a word; None if not known. ``tolerated``: registers that may be missing
    on either side, each with the only value that it may have then, or None for any."""

    first: tuple[int, int]
    last: tuple[int, int] | None
    longer: bool
    dropped_above: bool | None
    tolerated: Mapping[int, int | None]
    evidence: str

    def __contains__(self, version: tuple[int, int]) -> bool:
        return self.first <= version and (self.last is None or version <= self.last)

    def tolerates(self, register: int, value: int) -> bool:
        """Whether the register may be in the stream with this value while the destination does not have it."""
        return register in self.tolerated and self.tolerated[register] in (None, value)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """All entries; the writable masks of ID registers by kernel (measured; they do not depend on the CPU); what
    versions of QEMU do with a list; and, by vCPU feature, fields of ID registers that are 0 without it."""

    entries: Mapping[int, Entry] = field(default_factory=dict)
    masks: Mapping[KernelRelease, Mapping[int, int]] = field(default_factory=dict)
    loaders: Sequence[QemuLoader] = ()
    fields_of_features: Mapping[str, Sequence[tuple[int, str]]] = field(default_factory=dict)

    def repairs(self) -> Sequence[tuple[int, Case, Repair]]:
        """Registers whose values some kernels take without keeping them, and what to do about each."""
        return [
            (register, case, case.repair)
            for register, entry in self.entries.items()
            for case in entry.cases
            if case.repair is not None
        ]

    def loader(self, version: tuple[int, int] | None) -> QemuLoader | None:
        """What is known of a version of QEMU."""
        return next((loader for loader in self.loaders if version is not None and version in loader), None)

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
    def builtin() -> Knowledge:
        """The knowledge base that proxyd ships."""
        return _builtin()


@cache
def _builtin() -> Knowledge:
    from proxyd.rewrite.knowledge_file import parse_knowledge

    return parse_knowledge(_files())


@cache
def builtin_digest() -> str:
    """Which knowledge base proxyd ships: SHA-256 of its files, in the order of their names."""
    whole = hashlib.sha256()
    for name, content in _files():
        whole.update(f"{name} {len(content)}\n".encode() + content)
    return whole.hexdigest()


def _files() -> list[tuple[str, bytes]]:
    folder = resources.files("proxyd.knowledge")
    files = sorted((path for path in folder.iterdir() if path.name.endswith(".toml")), key=lambda path: path.name)
    return [(path.name, path.read_bytes()) for path in files]
