"""What the destination's QEMU would make of a stream as it is: load it, load it with something changed, or fail.

Mirrors ``target/arm/machine.c`` (the list's length, ``cpu_post_load``'s merge of two ascending lists) and
``target/arm/kvm.c: write_list_to_kvmstate``, which writes every register of QEMU's own list, also those that
the stream lacks. Which release does what is data (``proxyd/knowledge/qemu.toml``). Nothing is decided by it: it tells
operators what they are spared, and tests whether the knowledge agrees with real QEMUs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from formats.arm64.id_fields import field_named
from formats.arm64.register_id import describe, name_of
from proxyd.rewrite.acceptance import Acceptance
from proxyd.rewrite.changes import VcpuRegisters
from proxyd.rewrite.knowledge import Case, CaseAction, EnabledBy, Knowledge, QemuLoader
from proxyd.rewrite.verdict import Verdict

_VERSION: Final = re.compile(r"\D*(\d+)\.(\d+)")


class Foreseen(StrEnum):
    """What becomes of a stream that nobody rewrites."""

    LOADS = "loads"
    CHANGES = "changes"
    """It loads, and the guest goes on with something lost or changed, without an error."""
    FAILS = "fails"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Unaided:
    """The prediction. ``fails`` are the reasons why QEMU gives up, the first that it meets first; ``changes`` is what
    goes unsaid; ``unknown`` is what cannot be foretold. A sentence each, of the first vCPU that it concerns."""

    fails: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def foreseen(self) -> Foreseen:
        """In a word."""
        if self.fails:
            return Foreseen.FAILS
        if self.unknown:
            return Foreseen.UNKNOWN
        return Foreseen.CHANGES if self.changes else Foreseen.LOADS


def parse_qemu(text: str | None) -> tuple[int, int] | None:
    """``10.0`` of ``10.0.13``, ``QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-1)``; None if there is none."""
    match = _VERSION.match(text or "")
    return (int(match[1]), int(match[2])) if match else None


def foresee(vcpus: Sequence[VcpuRegisters], acceptance: Acceptance) -> Unaided:
    """What QEMU would do. Each sentence once, however many vCPUs it is true of."""
    knowledge = acceptance.knowledge
    loader = knowledge.loader(parse_qemu(acceptance.qemu))
    said: dict[str, dict[str, None]] = {"fails": {}, "changes": {}, "unknown": {}}
    for vcpu in vcpus:
        for kind, sentence in _Load(vcpu.registers, acceptance, knowledge, loader).sentences():
            said[kind][sentence] = None
    return Unaided(tuple(said["fails"]), tuple(said["changes"]), tuple(said["unknown"]))


@dataclass(frozen=True, slots=True)
class _Load:
    """One vCPU's list meets the destination's."""

    stream: Mapping[int, int]
    acceptance: Acceptance
    knowledge: Knowledge
    loader: QemuLoader | None

    def sentences(self) -> Iterator[tuple[str, str]]:
        yield from self._length()
        for register in self.stream:
            if register not in self.acceptance.registers:
                yield from self._surplus(register)
        for register, own in self.acceptance.registers.items():
            yield from self._written(register, own)
        for register, enabled_by in self.acceptance.enabled_by:
            hidden_by = self._hidden_by(enabled_by)
            if hidden_by is not None:
                yield "fails", f"{describe(register)}: ENOENT, because the stream has {hidden_by} off"
        yield from self._cleared()
        for register, needs in self.acceptance.unmet(self.stream):
            other = f"{name_of(needs.other)}.{needs.other_field}"
            yield "changes", f"{name_of(register)}.{needs.field} becomes 0 without an error: the stream has {other} off"

    def _length(self) -> Iterator[tuple[str, str]]:
        ours, theirs = len(self.stream), len(self.acceptance.registers)
        if ours <= theirs:
            return
        if self.loader is None:
            yield "unknown", f"{ours} registers for {theirs}: QEMU up to 10.2 fails on that; its version is not known"
        elif not self.loader.longer:
            yield "fails", f"Invalid value {ours} expecting positive value <= {theirs} (cpreg_vmstate_array_len)"

    def _surplus(self, register: int) -> Iterator[tuple[str, str]]:
        value = self.stream[register]
        what = f"{describe(register)} = {value:#x}"
        above = register > max(self.acceptance.registers)
        if self.loader is None:
            yield "unknown", f"{what}: the destination does not list it, and its QEMU's version is not known"
        elif self.loader.tolerates(register, value) or (above and self.loader.dropped_above):
            # A register that goes is a change, unless the guest is proven not to have it.
            case = self._case(register, CaseAction.REMOVE)
            if case is None or case.verdict is not Verdict.PROVEN:
                yield "changes", f"{what} is dropped without an error"
        elif above and self.loader.dropped_above is None:
            yield "unknown", f"{what}: above the destination's highest id; whether this QEMU drops it is not known"
        else:
            yield "fails", f"{what}: the destination does not list it"

    def _case(self, register: int, action: CaseAction) -> Case | None:
        entry = self.knowledge.entry(register)
        return None if entry is None else entry.case(action, None, self.stream, self.acceptance.registers)

    def _written(self, register: int, own: int) -> Iterator[tuple[str, str]]:
        if register not in self.stream:
            case = self._case(register, CaseAction.ABSENT)
            if case is None or case.value is not None or case.verdict > Verdict.PROVEN:
                yield "changes", f"{describe(register)} is not in the stream: the destination makes up {own:#x}"
            return
        told = self._case(register, CaseAction.NOTICE)
        if told is not None:
            yield "changes", f"{name_of(register)}: {told.reason}"
        value = self.stream[register]
        for mismatch in self.acceptance.mismatches(register, value):
            field = f".{mismatch.field}" if mismatch.field else ""
            what = f"{name_of(register)}{field} = {mismatch.value:#x}"
            if mismatch.silent:
                yield "changes", f"{what} becomes {mismatch.destination_value:#x} without an error"
            else:
                yield "fails", f"{what}: EINVAL, the destination {mismatch.why}"

    def _hidden_by(self, enabled_by: EnabledBy) -> str | None:
        """The field that, off in the stream, makes the destination's kernel hide a register that QEMU will write."""
        if enabled_by.register not in self.stream:
            return None
        field = field_named(enabled_by.register, enabled_by.field)
        return None if field.get(self.stream[enabled_by.register]) else f"{name_of(enabled_by.register)}.{field.name}"

    def _cleared(self) -> Iterator[tuple[str, str]]:
        for needed, items in ((True, self.acceptance.repairs), (False, self.acceptance.doubtful)):
            for register, _, repair in items:
                if register in self.stream and self.stream.get(repair.complement_of):
                    kept = describe(repair.complement_of)
                    lost = f"{kept} = {self.stream[repair.complement_of]:#x} is cleared again without an error"
                    yield "changes" if needed else "unknown", lost if needed else f"{lost} if the kernel is as {repair}"
