"""The grammar of a main channel, sans I/O.

:meth:`StreamParser.feed` takes any chunk and returns what it completes. The grammar is one generator, shaped like
``migration/savevm.c: qemu_loadvm_state`` and ``qemu_loadvm_state_main`` (QEMU 7.2 to 11.1), that suspends wherever a
chunk ends.

What it is not: it does not decide anything, and it does not look into device state. Modes that no proxy can carry
(COLO, RDMA ...) are recognised and raise :class:`~formats.errors.UnsupportedStream` with their name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from formats import events
from formats.commands import read_command
from formats.configuration import IGNORE_SHARED, MAX_NAME_BYTES, check_name, read_configuration
from formats.cursor import Cursor, Steps
from formats.device_tail import MAX_DEVICE_STATE_BYTES, MAX_SECTIONS, EarlyDevice, TailCollector
from formats.early_section import read_early_section
from formats.errors import (
    FooterMismatch,
    FormatError,
    LimitExceeded,
    SchemaMismatch,
    TruncatedStream,
    UnknownSection,
    UnsupportedStream,
    quoted,
)
from formats.files import mapped_ram
from formats.framing import FILE_HEADER, FILE_HEADER_BYTES, FOOTER, FOOTER_BYTES
from formats.iterative import REFUSED, WALKERS, Walker, kind_of, ram
from formats.iterative.ram_blocks import PLAIN, BlockFields
from formats.savevm import (
    QEMU_VM_FILE_MAGIC,
    QEMU_VM_FILE_VERSION,
    QEMU_VM_FILE_VERSION_COMPAT,
    MigCommand,
    SectionType,
)

# What QEMU assumes where the configuration does not say (x86, s390x: fixed 4 KiB pages).
DEFAULT_PAGE_BITS: Final = 12


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """What a stream may ask of the parser: bytes of device state that are collected, sections, bytes of a name."""

    device_state_bytes: int = MAX_DEVICE_STATE_BYTES
    sections: int = MAX_SECTIONS
    name_bytes: int = MAX_NAME_BYTES


@dataclass(slots=True)
class _Open:
    """An iterable section between its START and its END."""

    idstr: str
    instance_id: int
    version_id: int
    walk: Walker


# RAM, and one for each device that moves state while its guest runs (VFIO, dirty bitmaps): a handful. Each costs 30 us
# to begin, all of them in the step that has them in one chunk.
MAX_ITERABLES: Final = 512


class StreamParser:
    """One stream, from its first byte.

    ``feed`` raises :class:`~formats.errors.FormatError` and nothing else; after an error the parser is dead.
    Events come one by one: a caller may stop in the middle of a chunk and take the unread ``rest()`` elsewhere.
    ``seekable_from``: the stream begins at this offset of a file, and is fed from ``offset`` on after every chunk.
    Only then a mapped-ram file is taken; its pages are passed over.
    """

    def __init__(self, limits: ParserLimits | None = None, *, seekable_from: int | None = None) -> None:
        self.limits = limits or ParserLimits()
        self.mapped_ram = None if seekable_from is None else mapped_ram.MappedRam()
        self.page_size = 1 << DEFAULT_PAGE_BITS
        self.machine: str | None = None
        self.block_fields = PLAIN
        self._cursor = Cursor()
        self._cursor.base = seekable_from or 0
        self._events: list[events.Event] = []
        self._pieces: list[tuple[int, memoryview]] = []
        self._open: dict[int, _Open] = {}
        self._walkers = dict(WALKERS)
        self._bulk_idstr = ""
        self._iterables_seen = 0
        self._tail: TailCollector | None = None
        self._complete = False
        self._early: tuple[EarlyDevice, ...] = ()
        self._memory_began = False
        self._package_bytes: int | None = None
        self._package_offset = 0
        self.doing = "the file header"
        self._grammar = self._stream()
        self._error: FormatError | None = None

    @property
    def offset(self) -> int:
        """Stream offset of the next byte."""
        return self._cursor.offset

    @property
    def complete(self) -> bool:
        """Whether the end of the stream, the vmdesc's last byte, was seen."""
        return self._complete

    @property
    def held_bytes(self) -> int:
        """Bytes of device state that are collected and not yet part of an event."""
        if self._package_bytes is not None:
            return self._cursor.offset - self._package_offset
        return 0 if self._tail is None or self._complete else len(self._tail.data)

    @property
    def waiting_for(self) -> str:
        """What the parser is in the middle of, for messages."""
        return self.doing if self._tail is None else str(self._tail.diagnose())

    @property
    def tail_offset(self) -> int | None:
        """Stream offset at which the device part begins, once it has."""
        return None if self._tail is None else self._tail.offset

    @property
    def held_tail(self) -> bytearray | None:
        """What there is of the device part, once it has begun; its own buffer, which grows."""
        return None if self._tail is None else self._tail.data

    @property
    def in_device_tail(self) -> bool:
        """Whether the device part has begun: the tail of a precopy stream, or a postcopy package."""
        return self._tail is not None or self._package_bytes is not None

    def feed(self, chunk: bytes | memoryview) -> Iterator[events.Event]:
        """Parse ``chunk``; yields the events that it completes."""
        if self._error is not None:
            raise self._error
        self._cursor.load(chunk)
        try:
            while self._cursor.available:
                try:
                    next(self._grammar)
                except StopIteration:
                    raise AssertionError("the grammar ended") from None
                yield from self._drain()
            self._cursor.unload()
        except FormatError as error:
            self._error = error
            raise

    def rest(self) -> memoryview:
        """What the caller has not let the parser read of the last chunk."""
        return self._cursor.view[self._cursor.position :]

    def finish(self) -> None:
        """The input ended. Raises :class:`~formats.errors.FormatError` unless the stream is complete."""
        if self._error is not None:
            raise self._error
        if self._complete:
            return
        if self._tail is not None:
            raise self._tail.diagnose()
        raise TruncatedStream(f"the stream ends inside {self.doing}", self.offset)

    def close(self) -> None:
        """Let go of what is held. Parser and grammar know each other, so Python alone would free them late."""
        self._grammar.close()
        self._cursor = Cursor()
        self._tail = None
        self._error = TruncatedStream("the parser was closed", 0)

    def _drain(self) -> Iterator[events.Event]:
        for offset, piece in self._pieces:
            self._events.append(events.BulkData(offset, piece, self._bulk_idstr))
        self._pieces.clear()
        done, self._events = self._events, []
        yield from done

    # The grammar. A bare yield means: the chunk is used up, or an event should go out before reading on.

    def _emit(self, event: events.Event) -> Steps:
        self._events.append(event)
        yield

    def _stream(self) -> Steps:
        yield from self._file_header()
        self.doing = "the configuration"
        if (yield from self._cursor.peek_u8()) == SectionType.CONFIGURATION:
            yield from self._configuration()
        else:
            raise UnsupportedStream(
                "configuration section expected, found none: the source's machine and page size are not known "
                "(-global migration.send-configuration=off, or a machine type before 2.4)",
                self.offset,
            )
        while self._tail is None:
            self.doing = "a section header"
            kind = yield from self._cursor.peek_u8()
            if kind == SectionType.COMMAND:
                yield from self._command()
            elif kind == SectionType.START:
                yield from self._start()
            elif kind in (SectionType.PART, SectionType.END):
                yield from self._part()
            elif kind == SectionType.FULL:
                yield from self._full()
            elif kind == SectionType.EOF:
                raise SchemaMismatch("device sections expected before the end of the stream, found EOF", self.offset)
            else:
                raise SchemaMismatch(f"section type expected, found {kind:#04x}", self.offset)
        yield from self._device_tail(self._tail)
        yield from self._cursor.more()
        raise SchemaMismatch("end of the stream expected behind the vmdesc, found more bytes", self.offset)

    def _file_header(self) -> Steps:
        at = self._cursor.begin()
        yield from self._cursor.read(FILE_HEADER_BYTES)
        raw = self._cursor.end()
        header = FILE_HEADER.parse(raw)
        if header.magic != QEMU_VM_FILE_MAGIC:
            raise SchemaMismatch(f"not a migration stream: {QEMU_VM_FILE_MAGIC!r} expected, found {header.magic!r}", at)
        if header.version == QEMU_VM_FILE_VERSION_COMPAT:
            raise SchemaMismatch("stream version 3 expected, found 2 (QEMU calls it obsolete)", at)
        if header.version != QEMU_VM_FILE_VERSION:
            raise SchemaMismatch(f"stream version {QEMU_VM_FILE_VERSION} expected, found {header.version}", at)
        yield from self._emit(events.StreamHeader(at, raw, header.version))

    def _configuration(self) -> Steps:
        configuration = yield from read_configuration(self._cursor, self.limits.name_bytes)
        if mapped_ram.CAPABILITY in configuration.capabilities:
            if self.mapped_ram is None:
                message = "mapped-ram is for files: a socket, a pipe or a packed file cannot carry it"
                raise UnsupportedStream(message, configuration.offset)
            self.mapped_ram.gpa = IGNORE_SHARED in configuration.capabilities
            self._walkers[ram.IDSTR, ram.VERSION] = self.mapped_ram.walk
        elif IGNORE_SHARED in configuration.capabilities:
            self._expect(BlockFields(gpa=True))
        self.machine = configuration.machine
        self.page_size = 1 << (DEFAULT_PAGE_BITS if configuration.page_bits is None else configuration.page_bits)
        yield from self._emit(configuration)

    def _expect(self, fields: BlockFields) -> None:
        self.block_fields = fields
        self._walkers[ram.IDSTR, ram.VERSION] = partial(ram.walk, fields=fields)

    def _command(self) -> Steps:
        self.doing = "a command"
        command = yield from read_command(self._cursor)
        if command.command is MigCommand.POSTCOPY_ADVISE and command.data:
            if self._walkers[ram.IDSTR, ram.VERSION] is not ram.walk:
                message = "POSTCOPY_ADVISE: expected once, and neither with x-ignore-shared nor in a mapped-ram file"
                raise SchemaMismatch(message, command.offset)
            self._expect(BlockFields(page_size=True))
        if command.command is not MigCommand.PACKAGED:
            yield from self._emit(command)
            return
        length = int.from_bytes(command.data, "big")
        yield from self._emit(events.PackageHeader(command.offset, command.raw, length))
        if length > self.limits.device_state_bytes:
            raise LimitExceeded(
                f"postcopy package of at most {self.limits.device_state_bytes} bytes expected (limit "
                f"device_state_bytes), found {length}",
                self._cursor.offset,
            )
        yield from self._package(length)

    def _package(self, length: int) -> Steps:
        """The device state of a postcopy migration, and what follows it: the guest runs at the destination then."""
        self.doing = "the postcopy package"
        self._package_bytes = length
        self._package_offset = at = self._cursor.begin()
        yield from self._cursor.read(length)
        self._package_bytes = None
        self._complete = True
        yield from self._emit(events.Package(at, self._cursor.end()))
        while True:
            yield from self._cursor.more()
            at = self._cursor.begin()
            yield from self._emit(events.Opaque(at, self._cursor.take_rest()))

    def _start(self) -> Steps:
        cursor = self._cursor
        at = cursor.begin()
        yield from cursor.u8()
        section_id = yield from cursor.be32()
        idstr = (yield from cursor.counted_string()).decode("ascii", "replace")
        check_name("section name", len(idstr), self.limits.name_bytes, at)
        instance_id = yield from cursor.be32()
        version_id = yield from cursor.be32()
        walk = self._walkers.get((kind_of(idstr), version_id))
        if walk is None:
            if idstr in REFUSED:
                raise UnsupportedStream(REFUSED[idstr], at)
            known = ", ".join(f"{name} version {version}" for name, version in sorted(WALKERS))
            raise UnknownSection(
                f"iterable section {quoted(idstr)}/{instance_id} version {version_id}: its end cannot be found "
                f"(known: {known})",
                at,
            )
        if section_id in self._open:
            raise SchemaMismatch(f"section {quoted(idstr)}: id {section_id} is already open", at)
        most = min(self.limits.sections, MAX_ITERABLES)
        if self._iterables_seen >= most:
            raise LimitExceeded(f"at most {most} iterable sections expected (limit sections)", at)
        self._iterables_seen += 1
        self._open[section_id] = section = _Open(idstr, instance_id, version_id, walk)
        yield from self._body(at, SectionType.START, section_id, section)

    def _part(self) -> Steps:
        cursor = self._cursor
        at = cursor.begin()
        kind = SectionType((yield from cursor.u8()))
        section_id = yield from cursor.be32()
        section = self._open.get(section_id)
        if section is None:
            raise SchemaMismatch(f"section {kind.name}: id of an open section expected, found {section_id}", at)
        self._memory_began = True
        if kind is SectionType.END:
            del self._open[section_id]
        yield from self._body(at, kind, section_id, section)

    def _body(self, at: int, kind: SectionType, section_id: int, section: _Open) -> Steps:
        cursor = self._cursor
        yield from self._emit(
            events.SectionHeader(
                at, cursor.end(), kind, section_id, section.idstr, section.instance_id, section.version_id
            )
        )
        self.doing = f"section {quoted(section.idstr)}"
        self._bulk_idstr = section.idstr
        cursor.begin_bulk(self._pieces)
        yield from section.walk(cursor, self.page_size)
        cursor.end_bulk()
        yield  # the bulk goes out before the footer that follows it
        at = cursor.begin()
        raw = yield from cursor.read(FOOTER_BYTES)
        footer = FOOTER.parse(raw)
        if (footer.type, footer.section_id) != (SectionType.FOOTER, section_id):
            raise FooterMismatch(
                f"section {quoted(section.idstr)}: footer 7e with id {section_id} expected, found {raw.hex(' ')}",
                at,
            )
        yield from self._emit(events.SectionFooter(at, cursor.end(), section_id))

    def _full(self) -> Steps:
        """A device section: an early one, or the first of the device part.

        All of RAM is through then, but for a background snapshot, whose devices were saved first and come in the
        middle of it (``migration/migration.c: bg_migration_completion``): its RAM has no END.
        """
        if not self._memory_began:
            self.doing = "a device section before memory"
            if len(self._early) >= self.limits.sections:
                message = f"at most {self.limits.sections} device sections before memory expected (limit sections)"
                raise LimitExceeded(message, self.offset)
            early = yield from read_early_section(self._cursor, self._open, self.limits.name_bytes)
            self._early += (early.device,)
            yield from self._emit(early)
            return
        still_open = [section.idstr for section in self._open.values()]
        if still_open not in ([], [ram.IDSTR]):
            names = ", ".join(still_open)
            raise SchemaMismatch(f"device sections expected behind the end of {names}, found one before", self.offset)
        self.doing = "the device sections"
        self._tail = TailCollector(
            self._cursor.offset,
            self.page_size,
            self.limits.device_state_bytes,
            self.limits.sections,
            self.limits.name_bytes,
            self._early,
        )

    def _device_tail(self, tail: TailCollector) -> Steps:
        self._cursor.begin()
        while (complete := tail.add(self._cursor.take_rest())) is None:
            yield from self._cursor.more()
        self._complete = True
        yield from self._emit(
            events.DeviceTail(
                tail.offset, memoryview(tail.data), complete.sections, complete.vmdesc, complete.eof, self._early
            )
        )
