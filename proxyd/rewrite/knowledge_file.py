"""The knowledge base's files: TOML that a kernel developer can review, read into :mod:`.knowledge`.

One entry for each register, or for a group of registers that behave alike::

    [[entry]]
    registers  = ["TCR2_EL1"]                          # names, ids in hex, or a row of names: "DBGBVR{0..15}_EL1"
    listed     = [{ since = "6.5", until = "6.12" }, { since = "6.13", when = "ID_AA64MMFR3_EL1.TCRX != 0" }]
    accepts    = [{ until = "6.2", values = "equal" }] # by the destination's kernel; without it: any value
    enabled_by = { field = "ID_AA64MMFR3_EL1.TCRX", since = "6.13" }    # else the kernel hides the register
    needs      = [{ field = "S1PIE", other = "ID_AA64ISAR2_EL1.ATS1A", since = "7.3" }]   # else a guest reads 0 there
    evidence   = "..."                                 # for what stands above
    [[entry.case]]
    action   = "remove"                                # see CaseAction
    when     = "ID_AA64MMFR3_EL1.TCRX == 0"            # over the stream's registers; without it: always
    verdict  = "proven"
    reason   = "..."
    evidence = "..."

A case about an ID register names its ``field``, or ``fields`` that are worth the same. ``[masks."6.12"]`` are writable
masks, ``[[qemu]]`` is what versions of QEMU do with a list, ``[feature]`` which fields are 0 without a vCPU feature.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal, TypeVar

import msgspec

from formats.arm64.id_fields import field_named
from formats.arm64.register_id import id_of
from proxyd.rewrite.conditions import Condition
from proxyd.rewrite.kernel import KernelRange, KernelRelease, parse_kernel
from proxyd.rewrite.knowledge import (
    Accepted,
    Accepts,
    Case,
    CaseAction,
    EnabledBy,
    Entry,
    Knowledge,
    Listing,
    Needs,
    QemuLoader,
    Repair,
)
from proxyd.rewrite.verdict import Verdict

_ROW: Final = re.compile(r"(.*)\{(\d+)\.\.(\d+)\}(.*)")
_QEMU: Final = re.compile(r"(\d+)\.(\d+)")
_Item = TypeVar("_Item")


class KnowledgeError(ValueError):
    """A file of the knowledge base is wrong. The message names file, entry and what is accepted."""


class _Listing(msgspec.Struct, forbid_unknown_fields=True):
    since: str | None = None
    until: str | None = None
    feature: str | None = None
    when: str | None = None
    sometimes: str | None = None


class _Accept(msgspec.Struct, forbid_unknown_fields=True):
    values: Accepts
    field: str | None = None
    since: str | None = None
    until: str | None = None
    silent: bool = False


class _EnabledBy(msgspec.Struct, forbid_unknown_fields=True):
    field: str
    since: str


class _Needs(msgspec.Struct, forbid_unknown_fields=True):
    field: str
    other: str
    since: str


class _Repair(msgspec.Struct, forbid_unknown_fields=True):
    complement_of: str
    since: str
    until: str
    patch: int | None = None
    idle: str | None = None


class _Case(msgspec.Struct, forbid_unknown_fields=True):
    action: CaseAction
    verdict: Literal["proven", "neutral", "lossy", "unknown"]
    reason: str
    evidence: str
    field: str | None = None
    fields: list[str] = []
    when: str | None = None
    always: bool = False
    value: str | None = None
    repair: _Repair | None = None


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    registers: list[str]
    listed: list[_Listing]
    evidence: str
    accepts: list[_Accept] = []
    enabled_by: _EnabledBy | None = None
    needs: list[_Needs] = []
    case: list[_Case] = []


class _Tolerated(msgspec.Struct, forbid_unknown_fields=True):
    register: str
    value: str | None = None


class _Qemu(msgspec.Struct, forbid_unknown_fields=True):
    since: str
    longer: bool
    evidence: str
    until: str | None = None
    dropped_above: bool | None = None
    tolerated: list[_Tolerated] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    entry: list[_Entry] = []
    masks: dict[str, dict[str, str]] = {}
    qemu: list[_Qemu] = []
    feature: dict[str, list[str]] = {}


def parse_knowledge(files: Iterable[tuple[str, bytes]]) -> Knowledge:
    """Build the knowledge base from (name, TOML) pairs. Raises :class:`KnowledgeError`."""
    entries: dict[int, Entry] = {}
    masks: dict[KernelRelease, dict[int, int]] = {}
    loaders: list[QemuLoader] = []
    features: dict[str, list[tuple[int, str]]] = {}
    for name, data in files:
        try:
            parsed = msgspec.toml.decode(data, type=_File)
        except msgspec.DecodeError as error:
            raise KnowledgeError(f"{name}: {error}") from error
        for number, raw in enumerate(parsed.entry):
            where = f"{name}: entry[{number}]"
            for entry in _said_where(_entries(raw, where), where):
                if entry.register in entries:
                    raise KnowledgeError(f"{where}: {raw.registers} has an entry already")
                entries[entry.register] = entry
        for release, table in parsed.masks.items():
            masks[_release(release, f"{name}: masks")] = {id_of(key): int(value, 16) for key, value in table.items()}
        loaders += _said_where((_loader(raw, name) for raw in parsed.qemu), f"{name}: qemu")
        for feature, fields in parsed.feature.items():
            features[feature] = list(_said_where(map(_field, fields), f"{name}: feature.{feature}"))
    return Knowledge(entries, masks, tuple(loaders), features)


def _said_where(items: Iterable[_Item], where: str) -> Iterator[_Item]:
    """The items; an unknown register or field gets the place in front."""
    try:
        yield from items
    except KnowledgeError:
        raise
    except ValueError as error:
        raise KnowledgeError(f"{where}: {error}") from error


def _release(text: str, where: str) -> KernelRelease:
    release = parse_kernel(text)
    if release is None:
        raise KnowledgeError(f"{where}: kernel release such as 6.12 expected, found {text!r}")
    return release


def _range(since: str | None, until: str | None, where: str) -> KernelRange:
    return KernelRange(_release(since, where) if since else None, _release(until, where) if until else None)


def _sentence(text: str, where: str) -> str:
    if not text.strip():
        raise KnowledgeError(f"{where}: a sentence expected, found nothing")
    return text


def _names(text: str) -> Iterator[str]:
    """``DBGBVR{0..15}_EL1`` is sixteen names."""
    row = _ROW.fullmatch(text)
    if row is None:
        yield text
        return
    for number in range(int(row[2]), int(row[3]) + 1):
        yield f"{row[1]}{number}{row[4]}"


def _entries(raw: _Entry, where: str) -> Iterator[Entry]:
    for register in [id_of(name) for text in raw.registers for name in _names(text)]:
        yield Entry(
            register,
            tuple(_listing(listing, where) for listing in raw.listed),
            tuple(_accepted(accept, register, where) for accept in raw.accepts),
            None if raw.enabled_by is None else _enabled_by(raw.enabled_by, where),
            _sentence(raw.evidence, f"{where}.evidence"),
            tuple(
                case
                for number, raw_case in enumerate(raw.case)
                for case in _cases(raw_case, register, f"{where}.case[{number}]")
            ),
            tuple(_needs(needs, register, where) for needs in raw.needs),
        )


def _listing(raw: _Listing, where: str) -> Listing:
    when = None if raw.when is None else Condition.parse(raw.when, f"{where}.listed")
    return Listing(_range(raw.since, raw.until, where), raw.feature, when, raw.sometimes)


def _accepted(raw: _Accept, register: int, where: str) -> Accepted:
    if raw.field is not None:
        field_named(register, raw.field)
    return Accepted(_range(raw.since, raw.until, where), raw.field, raw.values, raw.silent)


def _field(text: str) -> tuple[int, str]:
    """``REGISTER.FIELD``. Raises :class:`ValueError`."""
    register_name, _, field_name = text.partition(".")
    register = id_of(register_name)
    field_named(register, field_name)
    return register, field_name


def _enabled_by(raw: _EnabledBy, where: str) -> EnabledBy:
    register, field_name = _field(raw.field)
    return EnabledBy(register, field_name, _release(raw.since, where))


def _needs(raw: _Needs, register: int, where: str) -> Needs:
    field_named(register, raw.field)
    other, other_field = _field(raw.other)
    return Needs(raw.field, other, other_field, _release(raw.since, where))


def _cases(raw: _Case, register: int, where: str) -> Iterator[Case]:
    """One case, or one for each of its ``fields``."""
    if raw.fields and raw.field is not None:
        raise KnowledgeError(f"{where}: field or fields expected, found both")
    reason = _sentence(raw.reason, f"{where}.reason")
    evidence = _sentence(raw.evidence, f"{where}.evidence")
    when = None if raw.when is None else Condition.parse(raw.when, f"{where}.when")
    if (raw.action is CaseAction.REPAIR) != (raw.repair is not None):
        raise KnowledgeError(f"{where}: a table repair expected with action repair, and only with it")
    if raw.value is not None and raw.action is not CaseAction.ABSENT:
        raise KnowledgeError(f"{where}: value expected with action absent only")
    repair = None if raw.repair is None else _repair(raw.repair, where)
    value = None if raw.value is None else int(raw.value, 16)
    names: list[str | None] = [*raw.fields] or [raw.field]
    for name in names:
        if name is not None:
            field_named(register, name)
        yield Case(raw.action, name, when, Verdict(raw.verdict), reason, evidence, raw.always, repair, value)


def _repair(raw: _Repair, where: str) -> Repair:
    idle = None if raw.idle is None else Condition.parse(raw.idle, f"{where}.repair.idle")
    return Repair(_range(raw.since, raw.until, where), raw.patch, id_of(raw.complement_of), idle)


def _loader(raw: _Qemu, name: str) -> QemuLoader:
    where = f"{name}: qemu"
    return QemuLoader(
        _qemu(raw.since, where),
        None if raw.until is None else _qemu(raw.until, where),
        raw.longer,
        raw.dropped_above,
        {id_of(one.register): None if one.value is None else int(one.value, 16) for one in raw.tolerated},
        _sentence(raw.evidence, f"{where}.evidence"),
    )


def _qemu(text: str, where: str) -> tuple[int, int]:
    match = _QEMU.fullmatch(text)
    if match is None:
        raise KnowledgeError(f"{where}: version of QEMU such as 10.2 expected, found {text!r}")
    return int(match[1]), int(match[2])
