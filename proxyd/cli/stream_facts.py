"""What a stream holds, collected from the parser's events, as ``inspect`` shows it.

Memory is walked and counted, never kept; the device part is kept whole (it is bounded by the parser).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from formats import events
from formats.errors import FormatError
from formats.files.libvirt_image import HEADER_BYTES
from formats.iterative import ram
from formats.iterative.ram_census import RamBlock, RamCensus
from formats.parser import StreamParser
from formats.savevm import MigCommand, SectionType
from proxyd.cli.exit_codes import InputError
from proxyd.cli.terminal import plain
from proxyd.rewrite.policy import StreamLimits
from proxyd.rewrite.tail import registers_of

if TYPE_CHECKING:
    from formats.device_tail import DeviceSection
    from formats.files.libvirt_image import SaveImageHeader
    from formats.files.mapped_ram import MappedBlock
    from proxyd.cli.stream_file import StreamFile
    from proxyd.rewrite.plan import VcpuRegisters


@dataclass(slots=True)
class IterableSection:
    """One iterable section: how often it was continued, and its payload in bytes."""

    idstr: str
    instance_id: int
    version_id: int
    section_id: int
    starts: int = 0
    parts: int = 0
    ends: int = 0
    payload_bytes: int = 0


@dataclass(slots=True)
class StreamFacts:
    """Everything that the events told. ``error`` says why there are no more."""

    name: str
    compression: str | None = None
    image: SaveImageHeader | None = None
    domain: str | None = None
    page_size: int | None = None
    header: events.StreamHeader | None = None
    configuration: events.Configuration | None = None
    commands: list[events.Command] = field(default_factory=list)
    iterables: dict[int, IterableSection] = field(default_factory=dict)
    blocks: tuple[RamBlock, ...] = ()
    tail: events.DeviceTail | None = None
    vcpus: tuple[VcpuRegisters, ...] = ()
    total_bytes: int = 0
    error: FormatError | None = None

    @property
    def machine(self) -> str | None:
        """The machine type."""
        return None if self.configuration is None else self.configuration.machine

    @property
    def return_path(self) -> bool:
        """Whether the source opened a return path."""
        return any(command.command is MigCommand.OPEN_RETURN_PATH for command in self.commands)

    def sections_named(self, idstr: str | None) -> tuple[DeviceSection, ...]:
        """The device sections of this name."""
        return () if self.tail is None else tuple(one for one in self.tail.sections if one.device.name == idstr)


def events_of(file: StreamFile, parser: StreamParser) -> Iterator[events.Event]:
    """The events of a whole file. Raises :class:`~formats.errors.FormatError`."""
    for chunk in file.chunks():
        yield from parser.feed(chunk)
        file.go_to(parser.offset)
    parser.finish()


def collect(file: StreamFile) -> StreamFacts:
    """Read a stream to its end or to its first error."""
    facts = StreamFacts(file.name, file.compression, file.image, _domain(file))
    parser = StreamParser(seekable_from=file.seekable_from)
    census: RamCensus | None = None
    current: IterableSection | None = None
    try:
        for event in events_of(file, parser):
            match event:
                case events.BulkData():
                    if current is None:
                        raise AssertionError("bulk data outside a section")
                    current.payload_bytes += len(event.raw)
                    if event.idstr == ram.IDSTR and not (parser.mapped_ram and parser.mapped_ram.blocks):
                        census = census or RamCensus(parser.page_size, parser.block_fields)
                        census.feed(event.raw)
                case events.SectionHeader():
                    current = _count(facts, event)
                case events.StreamHeader():
                    facts.header = event
                case events.Configuration():
                    facts.configuration = event
                    facts.page_size = parser.page_size
                case events.Command():
                    facts.commands.append(event)
                case events.DeviceTail():
                    facts.tail = event
                    facts.vcpus = registers_of(event, StreamLimits())
    except FormatError as error:
        facts.error = error
    facts.total_bytes = parser.offset
    facts.blocks = () if census is None else census.blocks
    if parser.mapped_ram is not None and parser.mapped_ram.blocks:
        facts.blocks = tuple(_counted(file.descriptor, block) for block in parser.mapped_ram.blocks)
    return facts


def registers_in(file: StreamFile) -> tuple[str | None, tuple[VcpuRegisters, ...]]:
    """A stream's machine type and the registers of its vCPUs. Raises :class:`InputError` if it has none."""
    parser = StreamParser(seekable_from=file.seekable_from)
    vcpus: tuple[VcpuRegisters, ...] = ()
    try:
        for event in events_of(file, parser):
            if isinstance(event, events.DeviceTail):
                vcpus = registers_of(event, StreamLimits())
    except FormatError as error:
        raise InputError(f"{plain(file.name)}: {error}") from error
    if not vcpus:
        raise InputError(
            f"{plain(file.name)}: an arm vCPU with a register list expected, found none "
            f"(machine {plain(parser.machine or 'unknown')})"
        )
    return parser.machine, vcpus


def _domain(file: StreamFile) -> str | None:
    """The name of the guest in a save image; the first element of libvirt's XML that is called so."""
    if file.image is None:
        return None
    found = re.search(rb"<name>([^<]*)</name>", file.image.xml_of(file.head[HEADER_BYTES:]))
    return None if found is None else found[1].decode("utf-8", "replace")


def _counted(descriptor: int, block: MappedBlock) -> RamBlock:
    """A block of a mapped-ram file, its pages counted in its bitmap."""
    there = int.from_bytes(os.pread(descriptor, block.bitmap_bytes, block.bitmap_offset), "little").bit_count()
    return RamBlock(block.name, block.size, there, block.size // block.page_size - there)


def _count(facts: StreamFacts, header: events.SectionHeader) -> IterableSection:
    section = facts.iterables.setdefault(
        header.section_id,
        IterableSection(header.idstr, header.instance_id, header.version_id, header.section_id),
    )
    section.starts += header.type is SectionType.START
    section.parts += header.type is SectionType.PART
    section.ends += header.type is SectionType.END
    return section
