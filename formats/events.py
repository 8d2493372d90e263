"""What the parser saw: frozen facts, each with its offset and its raw bytes.

``raw`` of all events, in order, is the stream. ``BulkData.raw`` is a view of the chunk that came in: no copy is made
of guest memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from formats.device_tail import DeviceSection, EarlyDevice
from formats.savevm import MigCommand, SectionType
from formats.vmdesc import VmDescription

Buffer: TypeAlias = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Event:
    """``offset`` is the stream offset of the first byte of ``raw``."""

    offset: int
    raw: Buffer = field(repr=False)


@dataclass(frozen=True, slots=True)
class StreamHeader(Event):
    """``QEVM`` and the file version."""

    version: int


@dataclass(frozen=True, slots=True)
class Configuration(Event):
    """The configuration section: the machine type and its optional subsections.

    ``page_bits`` is None where the source's target has a fixed page size (x86, s390x ...); arm's ``virt`` always
    sends it (``savevm.c: vmstate_target_page_bits_needed``).
    """

    machine: str
    page_bits: int | None
    capabilities: tuple[str, ...]
    uuid: bytes | None


@dataclass(frozen=True, slots=True)
class Command(Event):
    """A QEMU_VM_COMMAND."""

    command: MigCommand
    data: bytes


@dataclass(frozen=True, slots=True)
class SectionHeader(Event):
    """START, PART or END of an iterable section."""

    type: SectionType
    section_id: int
    idstr: str
    instance_id: int
    version_id: int


@dataclass(frozen=True, slots=True)
class BulkData(Event):
    """A piece of an iterable section's payload, as much of it as one chunk held."""

    idstr: str


@dataclass(frozen=True, slots=True)
class SectionFooter(Event):
    """The footer of an iterable section."""

    section_id: int


@dataclass(frozen=True, slots=True)
class PackageHeader(Event):
    """The command before a postcopy package; ``length`` bytes of package follow."""

    length: int


@dataclass(frozen=True, slots=True)
class Package(Event):
    """A whole postcopy package (:mod:`formats.package`). Everything behind it is for the guest that runs already."""


@dataclass(frozen=True, slots=True)
class Opaque(Event):
    """What comes behind a postcopy package: nobody needs to look at it."""


@dataclass(frozen=True, slots=True)
class EarlySection(Event):
    """A device section that the destination needs before memory: ``raw`` is all of it, header and footer."""

    section_id: int
    device: EarlyDevice


@dataclass(frozen=True, slots=True)
class DeviceTail(Event):
    """All device sections, EOF and the vmdesc, as one unit: only the vmdesc proves where each section ends.

    ``eof`` is the index in ``raw`` of the EOF byte; everything behind it is the vmdesc element. ``early`` are the
    device sections that came before memory: the vmdesc's first entries are theirs, ``sections`` belong to the others.
    """

    sections: tuple[DeviceSection, ...]
    vmdesc: VmDescription
    eof: int
    early: tuple[EarlyDevice, ...] = ()
