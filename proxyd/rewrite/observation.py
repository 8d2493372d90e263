"""What was seen to go wrong on a destination, register by register: from QEMU's log there, or from proxyd's own.

proxyd's own lines are its refusals and what a rehearsal on the destination's KVM found (``vcpu 0: NAME (0xID) ...``);
the document that ``proxyd rehearse --json`` prints is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from formats.arm64.register_id import UnknownRegister, describe, id_of
from formats.qemu_log import LogKind, LogLine, parse_line


class ObservationKind(StrEnum):
    """What became of a register, or of all of them where none is named."""

    NOT_LISTED = "not-listed"  # the destination has no such register
    REFUSED = "refused"  # it does not take the value
    HIDDEN = "hidden"  # it lists the register, and has it no more once the stream's ID registers are written
    CHANGED = "changed"  # it takes the value and then has another, without an error
    OTHER_ERROR = "other-error"  # an errno that no rule can mend
    SOME_NOT_LISTED = "some-not-listed"  # a register, not named, is not listed
    SOME_REFUSED = "some-refused"  # a register, not named, is refused or hidden


@dataclass(frozen=True, slots=True)
class Observation:
    """``wanted`` is the value that was sent, ``own`` the destination's, where they are told; ``said`` the line."""

    kind: ObservationKind
    said: str
    register: int | None = None
    wanted: int | None = None
    own: int | None = None
    errno: str | None = None


_OWN: Final = re.compile(r"vcpu \d+: .+? \((?P<id>0x[0-9a-f]{16})\)(?P<rest>.*)")
_KVM_REFUSES: Final = re.compile(r"refuses (?P<wanted>0x[0-9a-f]+) with (?P<errno>E\w+) \(it has (?P<own>0x[0-9a-f]+)?")
_KVM_CHANGES: Final = re.compile(r"takes (?P<wanted>0x[0-9a-f]+) without an error and then has (?P<own>0x[0-9a-f]+)")
_NOT_THERE: Final = re.compile(r"does not have it; the stream's value is|the destination does not list it")
_HIDES: Final = re.compile(r"the destination's kernel hides (?P<name>\S+)")
_REFUSAL: Final = re.compile(r": (?:lossy|unknown): ")

_BY_ERRNO: Final = {"EINVAL": ObservationKind.REFUSED, "ENOENT": ObservationKind.HIDDEN}

_NAMED: Final = {
    LogKind.VALUE_REFUSED: ObservationKind.REFUSED,
    LogKind.UNKNOWN_TO_KVM: ObservationKind.HIDDEN,
    LogKind.WRITE_FAILED: ObservationKind.OTHER_ERROR,
    LogKind.ONLY_IN_STREAM: ObservationKind.NOT_LISTED,
}


def observations(log: str) -> tuple[Observation, ...]:
    """What a log, or a rehearsal's document, shows, each once. Where registers are named, lines that name none tell
    nothing more."""
    found: dict[tuple[object, ...], Observation] = {}
    seen = _of_document(log) or (one for line in log.splitlines() for one in _of_line(line.strip()))
    for one in seen:
        found.setdefault((one.kind, one.register, one.wanted, one.own, one.errno), one)
    named = tuple(one for one in found.values() if one.register is not None or one.errno is not None)
    return named or tuple(found.values())


class _Finding(msgspec.Struct):
    """What of a finding of :mod:`proxyd.rewrite.rehearsal` is needed here."""

    kind: str
    register: str
    wanted: str | None = None
    found: str | None = None
    errno: str | None = None


class _Rehearsal(msgspec.Struct):
    findings: list[_Finding]


class _Document(msgspec.Struct):
    rehearsal: _Rehearsal


def _of_document(text: str) -> list[Observation]:
    """The findings of a rehearsal; nothing if the text is another."""
    try:
        findings = msgspec.json.decode(text, type=_Document).rehearsal.findings
        return [one for finding in findings if (one := _of_finding(finding)) is not None]
    except (msgspec.DecodeError, ValueError):
        return []


def _of_finding(finding: _Finding) -> Observation | None:
    register = int(finding.register, 16)
    wanted, own = (None if text is None else int(text, 16) for text in (finding.wanted, finding.found))
    kind = {"unknown": ObservationKind.NOT_LISTED, "changed": ObservationKind.CHANGED}.get(finding.kind)
    if finding.kind == "refused":
        kind = _BY_ERRNO.get(finding.errno or "", ObservationKind.OTHER_ERROR)
    if kind is None:
        return None
    values = "".join(f", {name} {value:#x}" for name, value in (("sent", wanted), ("there", own)) if value is not None)
    said = f"rehearsed: {describe(register)} {finding.kind}{values}{f', {finding.errno}' if finding.errno else ''}"
    return Observation(kind, said, register, wanted, own, finding.errno)


def _of_line(line: str) -> Iterator[Observation]:
    parsed = parse_line(line)
    if parsed is not None:
        yield from _of_qemu(parsed)
        return
    match = _OWN.search(line)
    if match is not None:
        one = _of_proxyd(line, int(match["id"], 16), match["rest"])
        if one is not None:
            yield one


def _of_qemu(line: LogLine) -> Iterator[Observation]:
    kind = _NAMED.get(line.kind)
    if kind is not None:
        yield Observation(kind, line.text, line.register, line.wanted, line.own, line.errno)
    elif line.kind is LogKind.LIST_TOO_LONG or (line.kind is LogKind.LOAD_FAILED and line.errno == "EPERM"):
        yield Observation(ObservationKind.SOME_NOT_LISTED, line.text)
    elif line.kind is LogKind.PUT_FAILED:
        yield Observation(ObservationKind.SOME_REFUSED, line.text)


def _of_proxyd(line: str, register: int, rest: str) -> Observation | None:
    if match := _KVM_REFUSES.search(rest):
        kind = _BY_ERRNO.get(match["errno"], ObservationKind.OTHER_ERROR)
        own = None if match["own"] is None else int(match["own"], 16)
        return Observation(kind, line, register, int(match["wanted"], 16), own, match["errno"])
    if match := _KVM_CHANGES.search(rest):
        return Observation(ObservationKind.CHANGED, line, register, int(match["wanted"], 16), int(match["own"], 16))
    if _NOT_THERE.search(rest):
        return Observation(ObservationKind.NOT_LISTED, line, register)
    if match := _HIDES.search(rest):
        try:
            return Observation(ObservationKind.HIDDEN, line, id_of(match["name"]))
        except UnknownRegister:
            return None
    # A refusal's values may be those of a field: the stream and the host description have the whole ones.
    return Observation(ObservationKind.REFUSED, line, register) if _REFUSAL.search(rest) else None
