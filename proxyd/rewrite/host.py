"""A description of a destination host: which registers its KVM lists, which values they have, what it lets be written.

JSON, made by ``proxyd probe``; ``docs/host-description.md`` has the table of keys. The register list is the list of a
vCPU as QEMU creates it on that host, with the features that the guest is meant to have: other features, other list.
A probe reads those other lists too and keeps what differs as variants.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import RegisterKind, describe, id_of, kind_of, name_of

FORMAT: Final = "proxyd-host"
VERSION: Final = 1

_HEX: Final = re.compile(r"0x0*[0-9a-fA-F]{1,16}")
T = TypeVar("T")

_SHOWN: Final = 40  # characters of a foreign value that a message repeats

# Keys that only a probe has; JSON has their values as they are.
_PROBED: Final = ("features", "missing_features", "gic", "counter_hz", "sve_vector_bits", "pmu_writes")

# QEMU keeps these in other fields of the cpu section (target/arm/kvm.c: kvm_arm_reg_syncs_via_cpreg_list).
NOT_IN_LIST: Final = frozenset({RegisterKind.CORE, RegisterKind.SVE})


class HostError(ValueError):
    """The description cannot be used. The message names file, key, and what is accepted."""

    def __init__(self, file: str, key: str, message: str) -> None:
        super().__init__(f"{file}: {key}: {message}" if key else f"{file}: {message}")
        self.file = file
        self.key = key


class RegisterEntry(msgspec.Struct, forbid_unknown_fields=True):
    """``name`` is for people; it must fit the id if it is there."""

    id: str
    value: str
    name: str | None = None


class VariantEntry(msgspec.Struct, forbid_unknown_fields=True):
    """How the list differs for a vCPU with other features; registers by name or by id in hex."""

    features: list[str]
    absent: list[str]
    registers: dict[str, str]


class Document(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A host description as it is written; docs/host-description.md says what the keys mean."""

    format: Literal["proxyd-host"]
    version: Literal[1]
    name: str
    accelerator: Literal["kvm", "tcg"]
    origin: Literal["probe", "stream", "reglist"]
    registers: list[RegisterEntry]
    kernel: str | None = None
    qemu: str | None = None
    machine: str | None = None
    cpu: str | None = None
    writable_masks: dict[str, str] | None = None
    capabilities: dict[str, int] | None = None
    features: list[str] | None = None
    missing_features: dict[str, str] | None = None
    gic: list[str] | None = None
    counter_hz: Annotated[int, msgspec.Meta(gt=0)] | None = None
    midrs: list[str] | None = None
    sve_vector_bits: list[int] | None = None
    pmu_writes: Literal["stored", "as-guest"] | None = None
    variants: list[VariantEntry] | None = None


class Variant(msgspec.Struct, frozen=True):
    """How the list differs for a vCPU with these features: what is ``absent``, and ``registers`` that are new or have
    another value."""

    features: tuple[str, ...]
    absent: frozenset[int]
    registers: Mapping[int, int]

    @staticmethod
    def between(features: Collection[str], described: CpregList, other: CpregList) -> Variant:
        """What makes ``other``, the list with these features, of the one that is described."""
        differing = {register: value for register, value in other.items() if described.get(register) != value}
        return Variant(tuple(features), frozenset(set(described) - set(other)), differing)


class HostDescription(msgspec.Struct, frozen=True):
    """``registers`` as QEMU lists them. ``writable_masks`` is None where nobody asked the kernel; then what is known of
    ``kernel`` counts. ``origin`` says how the description was made.

    What only a probe knows, None elsewhere: ``features`` of the vCPU that was listed; ``missing_features``, those that
    were asked for, each with the reason why it is not there; ``gic``, the interrupt controllers; ``counter_hz``, the
    generic timer's frequency; ``midrs``, one for each kind of CPU; ``sve_vector_bits``; ``pmu_writes``, whether a value
    written to PMCNTENSET_EL0 and its like is ``stored`` or has the effect that it has ``as-guest``, so that writing
    PMCNTENCLR_EL0 takes it away; ``variants``, other lists."""

    name: str
    registers: CpregList
    accelerator: str = "kvm"
    origin: str = "probe"
    kernel: str | None = None
    qemu: str | None = None
    machine: str | None = None
    cpu: str | None = None
    writable_masks: Mapping[int, int] | None = None
    capabilities: Mapping[str, int] | None = None
    features: tuple[str, ...] | None = None
    missing_features: Mapping[str, str] | None = None
    gic: tuple[str, ...] | None = None
    counter_hz: int | None = None
    midrs: tuple[int, ...] | None = None
    sve_vector_bits: tuple[int, ...] | None = None
    pmu_writes: Literal["stored", "as-guest"] | None = None
    variants: tuple[Variant, ...] | None = None

    def with_features(self, features: Collection[str]) -> HostDescription | None:
        """The same host with a vCPU that has just these features; None where nobody has read that list."""
        wanted = frozenset(features)
        if self.features is not None and wanted == frozenset(self.features):
            return self
        for variant in self.variants or ():
            if wanted == frozenset(variant.features):
                return msgspec.structs.replace(
                    self,
                    registers=self.registers.edited(remove=variant.absent, put=variant.registers),
                    features=variant.features,
                    sve_vector_bits=self.sve_vector_bits if "sve" in wanted else None,
                    pmu_writes=self.pmu_writes if "pmu" in wanted else None,
                    variants=None,
                )
        return None

    @staticmethod
    def parse(data: bytes, name: str) -> HostDescription:
        """From JSON; ``name`` is the file's, for messages. Raises :class:`HostError`."""
        try:
            document = msgspec.json.decode(data, type=Document)
        except msgspec.ValidationError as error:
            raise HostError(name, "", f"host description ({FORMAT}, version {VERSION}) expected: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise HostError(name, "", f"JSON expected: {error}") from error
        registers: dict[int, int] = {}
        for number, register in enumerate(document.registers):
            key = f"registers[{number}]"
            register_id = _number(name, f"{key}.id", register.id)
            if register_id in registers:
                raise HostError(name, f"{key}.id", f"every id once expected, found {register.id} again")
            if register.name is not None and register.name != name_of(register_id):
                raise HostError(
                    name, f"{key}.name", f"{name_of(register_id)!r} expected for {register.id}, found {register.name!r}"
                )
            if kind_of(register_id) not in NOT_IN_LIST:
                registers[register_id] = _number(name, f"{key}.value", register.value)
        if not registers:
            raise HostError(name, "registers", "at least one register expected, found none")
        masks = None
        if document.writable_masks is not None:
            masks = _by_register(name, "writable_masks", document.writable_masks)
        return HostDescription(
            name=document.name,
            registers=CpregList(registers),
            accelerator=document.accelerator,
            origin=document.origin,
            kernel=document.kernel,
            qemu=document.qemu,
            machine=document.machine,
            cpu=document.cpu,
            writable_masks=masks,
            capabilities=document.capabilities,
            features=_tuple(document.features),
            missing_features=document.missing_features,
            gic=_tuple(document.gic),
            counter_hz=document.counter_hz,
            midrs=None if document.midrs is None else tuple(_number(name, "midrs", midr) for midr in document.midrs),
            sve_vector_bits=_tuple(document.sve_vector_bits),
            pmu_writes=document.pmu_writes,
            variants=None if document.variants is None else tuple(_variants(name, document.variants)),
        )

    def to_json(self) -> bytes:
        """The description as indented JSON, registers ascending, one per line, ids and values in hex."""
        document: dict[str, Any] = {"format": FORMAT, "version": VERSION, "name": self.name}
        for key in ("accelerator", "origin", "kernel", "qemu", "machine", "cpu", *_PROBED):
            value = getattr(self, key)
            if value is not None:
                document[key] = value
        if self.midrs is not None:
            document["midrs"] = [f"{midr:#x}" for midr in self.midrs]
        if self.capabilities is not None:
            document["capabilities"] = dict(self.capabilities)
        if self.writable_masks is not None:
            masks = sorted(self.writable_masks.items())
            document["writable_masks"] = {_key(register): f"{mask:#x}" for register, mask in masks}
        lines = [
            msgspec.json.encode({"id": f"{register:#018x}", "name": name_of(register), "value": f"{value:#x}"}).decode()
            for register, value in self.registers.items()
        ]
        head = msgspec.json.format(msgspec.json.encode(document), indent=1).decode().removesuffix("\n}")
        parts = [head, _lines("registers", lines)]
        if self.variants is not None:
            parts.append(_lines("variants", [_variant_line(variant) for variant in self.variants]))
        return (",\n".join(parts) + "\n}\n").encode()


def _lines(key: str, lines: Collection[str]) -> str:
    """A list with one element a line."""
    body = ",\n  ".join(lines)
    return f' "{key}": [\n  {body}\n ]' if lines else f' "{key}": []'


def _variant_line(variant: Variant) -> str:
    return msgspec.json.encode(
        {
            "features": variant.features,
            "absent": [_key(register) for register in sorted(variant.absent)],
            "registers": {_key(register): f"{value:#x}" for register, value in sorted(variant.registers.items())},
        }
    ).decode()


def _variants(file: str, read: Sequence[VariantEntry]) -> Iterator[Variant]:
    for place, variant in enumerate(read):
        key = f"variants[{place}]"
        yield Variant(
            features=tuple(variant.features),
            absent=frozenset(_id(file, f"{key}.absent", register) for register in variant.absent),
            registers=_by_register(file, f"{key}.registers", variant.registers),
        )


def _by_register(file: str, key: str, named: Mapping[str, str]) -> dict[int, int]:
    """Registers by name or id, with a number each."""
    numbers: dict[int, int] = {}
    for register, number in named.items():
        place = f"{key}.{register}"
        register_id = _id(file, place, register)
        if register_id in numbers:
            raise HostError(file, place, f"every register once expected, found {describe(register_id)} again")
        numbers[register_id] = _number(file, place, number)
    return numbers


def _id(file: str, key: str, register: str) -> int:
    try:
        return id_of(register)
    except ValueError as error:
        raise HostError(file, key, str(error)) from error


def _tuple(read: Sequence[T] | None) -> tuple[T, ...] | None:
    return None if read is None else tuple(read)


def _key(register: int) -> str:
    """A register's name if it leads back to the id, else the id: QEMU's TCG lists registers without a name."""
    try:
        return name_of(register) if id_of(name_of(register)) == register else f"{register:#018x}"
    except ValueError:
        return f"{register:#018x}"


def _number(file: str, key: str, text: str) -> int:
    # int() alone would take signs, blanks and underscores.
    if not _HEX.fullmatch(text):
        found = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise HostError(file, key, f"number in hex of at most 64 bits, such as 0x1f, expected, found {found!r}")
    return int(text, 16)
