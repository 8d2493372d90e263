"""A description of a destination host: which registers its KVM lists, which values they have, what it lets be written.

JSON, made by ``proxyd probe``; ``docs/host-description.md`` has the table of keys. The register list is the list of a
vCPU as QEMU creates it on that host, with the features that the guest is meant to have: other features, other list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import RegisterKind, describe, id_of, kind_of, name_of

FORMAT: Final = "proxyd-host"
VERSION: Final = 1

_HEX: Final = re.compile(r"0x0*[0-9a-fA-F]{1,16}")
_SHOWN: Final = 40  # characters of a foreign value that a message repeats

# QEMU keeps these in other fields of the cpu section (target/arm/kvm.c: kvm_arm_reg_syncs_via_cpreg_list).
NOT_IN_LIST: Final = frozenset({RegisterKind.CORE, RegisterKind.SVE})


class HostError(ValueError):
    """The description cannot be used. The message names file, key, and what is accepted."""

    def __init__(self, file: str, key: str, message: str) -> None:
        super().__init__(f"{file}: {key}: {message}" if key else f"{file}: {message}")
        self.file = file
        self.key = key


class _Register(msgspec.Struct, forbid_unknown_fields=True):
    """``name`` is for people; it must fit the id if it is there."""

    id: str
    value: str
    name: str | None = None


class _Document(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    format: Literal["proxyd-host"]
    version: Literal[1]
    name: str
    accelerator: Literal["kvm", "tcg"]
    origin: Literal["probe", "stream", "reglist"]
    registers: list[_Register]
    kernel: str | None = None
    qemu: str | None = None
    machine: str | None = None
    cpu: str | None = None
    writable_masks: dict[str, str] | None = None
    capabilities: dict[str, int] | None = None


class HostDescription(msgspec.Struct, frozen=True):
    """``registers`` as QEMU lists them. ``writable_masks`` is None where nobody asked the kernel; then what is known of
    ``kernel`` counts. ``origin`` says how the description was made."""

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

    @staticmethod
    def parse(data: bytes, name: str) -> HostDescription:
        """From JSON; ``name`` is the file's, for messages. Raises :class:`HostError`."""
        try:
            document = msgspec.json.decode(data, type=_Document)
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
            masks = _masks(name, document.writable_masks)
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
        )

    def to_json(self) -> bytes:
        """The description as indented JSON, registers ascending, one per line, ids and values in hex."""
        document: dict[str, Any] = {"format": FORMAT, "version": VERSION, "name": self.name}
        for key in ("accelerator", "origin", "kernel", "qemu", "machine", "cpu"):
            value = getattr(self, key)
            if value is not None:
                document[key] = value
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
        body = ",\n  ".join(lines)
        return f'{head},\n "registers": [\n  {body}\n ]\n}}\n'.encode()


def _masks(file: str, named: Mapping[str, str]) -> dict[int, int]:
    masks: dict[int, int] = {}
    for register, mask in named.items():
        key = f"writable_masks.{register}"
        try:
            register_id = id_of(register)
        except ValueError as error:
            raise HostError(file, key, str(error)) from error
        if register_id in masks:
            raise HostError(file, key, f"every register once expected, found {describe(register_id)} again")
        masks[register_id] = _number(file, key, mask)
    return masks


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
