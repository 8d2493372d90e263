"""Where the device part ends, and where each of its sections does.

Theory of operation
-------------------
A FULL section has no length on the wire. What describes it, the vmdesc, comes behind the last one:

    FULL ... FULL 00 06 be32 len json[len]

EOF is a bare 00 and TCP has no record marks, so the end is *proven*, not recognised: every ``00 06 len {`` is a
candidate; one is accepted if its JSON ends exactly where the received bytes end and describes, device by device from
the first byte of the tail, sections whose headers and footers are all where the sizes say, with the candidate's 00
right behind the last footer. Device payloads hold bytes that the guest chose, so nothing less would do.

Sections that came before memory (:mod:`formats.early_section`) are described first, and are no longer there to be
looked at: what was taken for them must have exactly the size that the vmdesc says.

A source that was started with ``suppress-vmdesc=on`` sends no vmdesc; its tail never completes, and is not rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import construct as c

from formats.errors import FooterMismatch, FormatError, LimitExceeded, SchemaMismatch, TruncatedStream, quoted
from formats.framing import FOOTER, FOOTER_BYTES, SECTION_HEADER, VMDESC_HEADER, VMDESC_HEADER_BYTES
from formats.savevm import SectionType
from formats.vmdesc import Device, VmDescription, parse_vmdesc

# Typical device state is 0.2 to 5 MB; virtio-gpu or vhost-user-fs have been seen with tens. It is all held in memory,
# for every migration at once.
MAX_DEVICE_STATE_BYTES: Final = 64 << 20

# A machine with 512 vCPUs has two sections for each and some hundred devices.
MAX_SECTIONS: Final = 4096

# Byte patterns that might begin a vmdesc. An honest stream has a handful; a guest can make as many as its devices have
# room for, and each costs memory here.
MAX_CANDIDATES: Final = 65536

# How many candidates are looked at again to tell the user what is wrong.
MAX_DIAGNOSED: Final = 16

# 00 06 be32 "{". Marks do not overlap, so one pass finds them all, at the speed of C even where a guest has filled a
# device with them.
_CANDIDATE: Final = re.compile(rb"\x00\x06(?=.{4}\{)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class EarlyDevice:
    """A device section that came before memory, and how many bytes between header and footer were taken for its own."""

    idstr: str
    instance_id: int
    version_id: int
    payload_bytes: int

    @property
    def name(self) -> str:
        """``idstr/instance_id``."""
        return f"{self.idstr}/{self.instance_id}"


@dataclass(frozen=True, slots=True)
class DeviceSection:
    """One FULL section. All positions are indices into the tail; ``device`` is its vmdesc entry."""

    device: Device
    section_id: int
    start: int
    payload_start: int
    payload_end: int
    end: int

    @property
    def name(self) -> str:
        """``idstr/instance_id``."""
        return f"{self.device.name}/{self.device.instance_id}"


@dataclass(frozen=True, slots=True)
class CompleteTail:
    """A tail that is proven: its sections, its description, and the index of its EOF byte."""

    sections: tuple[DeviceSection, ...]
    vmdesc: VmDescription
    eof: int


class TailCollector:
    """Collects the device part until the vmdesc proves it complete.

    ``offset`` is the stream offset of its first byte; ``early`` are the sections that came before memory. ``add``
    raises :class:`LimitExceeded` when the tail outgrows its limits; a wrong candidate is no error, because more bytes
    may bring the right one: ``failure`` keeps the reason of the best one for the case that none comes.
    """

    def __init__(
        self,
        offset: int,
        page_size: int,
        max_bytes: int = MAX_DEVICE_STATE_BYTES,
        max_sections: int = MAX_SECTIONS,
        max_name_bytes: int = 255,
        early: tuple[EarlyDevice, ...] = (),
    ) -> None:
        self.data = bytearray()
        self.offset = offset
        self.failure: str | None = None
        self._page_size = page_size
        self._max_bytes = max_bytes
        self._max_sections = max_sections
        self._max_name_bytes = max_name_bytes
        self._early = early
        self._scanned = 0
        self._candidates: dict[int, list[int]] = {}  # end of the JSON -> indices of its 00
        self._count = 0

    def add(self, chunk: bytes | memoryview) -> CompleteTail | None:
        """Take the next bytes. Returns the tail once it is complete."""
        if len(self.data) + len(chunk) > self._max_bytes:
            raise LimitExceeded(
                f"device state of at most {self._max_bytes} bytes expected (limit device_state_bytes), "
                f"found at least {len(self.data) + len(chunk)}",
                self.offset,
            )
        self.data += chunk
        self._find_candidates()
        for eof in self._candidates.pop(len(self.data), ()):
            try:
                return self._prove(eof)
            except LimitExceeded:
                raise
            except FormatError as error:
                # Only the text: the exception's frames would keep views of ``data``, which then could not grow.
                self.failure = str(error)
        return None

    def diagnose(self) -> FormatError:
        """Why the tail is not complete, if nothing more comes."""
        held = f"the stream ends after {len(self.data)} bytes of device state"
        for end in sorted((end for end in self._candidates if end < len(self.data)), reverse=True)[:MAX_DIAGNOSED]:
            for eof in self._candidates[end]:
                try:
                    self._prove(eof)
                except FormatError as error:
                    self.failure = self.failure or str(error)
                else:
                    surplus = len(self.data) - end
                    return SchemaMismatch(f"end of the stream expected, found {surplus} bytes more", self.offset + end)
        if self.failure is not None:
            return SchemaMismatch(f"{held} without a vmdesc that fits them: {self.failure}", self.offset)
        return TruncatedStream(
            f"{held} without a vmdesc (cut off, or the source runs with suppress-vmdesc=on)", self.offset
        )

    def _find_candidates(self) -> None:
        data = self.data
        for match in _CANDIDATE.finditer(data, self._scanned):
            at = match.start()
            end = at + VMDESC_HEADER_BYTES + int.from_bytes(data[at + 2 : at + 6], "big")
            if end <= self._max_bytes:
                self._count += 1
                if self._count > MAX_CANDIDATES:
                    raise LimitExceeded(
                        f"device state: more than {MAX_CANDIDATES} byte patterns that look like a vmdesc",
                        self.offset,
                    )
                self._candidates.setdefault(end, []).append(at)
        # A mark whose header and "{" are not all here yet is looked for again.
        self._scanned = max(len(data) - VMDESC_HEADER_BYTES, 0)

    def _prove(self, eof: int) -> CompleteTail:
        data = memoryview(self.data)
        length = VMDESC_HEADER.parse(data[eof : eof + VMDESC_HEADER_BYTES]).length
        start = eof + VMDESC_HEADER_BYTES
        vmdesc = parse_vmdesc(data[start : start + length])
        if vmdesc.page_size != self._page_size:
            raise SchemaMismatch(
                f"vmdesc: page size {self._page_size} expected, found {vmdesc.page_size}", self.offset + eof
            )
        for device in vmdesc.devices:
            if len(device.name) > self._max_name_bytes:
                raise LimitExceeded(
                    f"section name of at most {self._max_name_bytes} bytes expected (limit name_bytes), "
                    f"found {quoted(device.name)}",
                    self.offset,
                )
        _check_early(self._early, vmdesc, self.offset + eof)
        others = vmdesc.devices[len(self._early) :]
        sections = cut_sections(data[:eof], others, self.offset, self._max_sections)
        return CompleteTail(sections, vmdesc, eof)


def cut_sections(
    tail: memoryview | bytes, devices: Sequence[Device], offset: int, max_sections: int = MAX_SECTIONS
) -> tuple[DeviceSection, ...]:
    """Cut the bytes before EOF into sections, as the vmdesc's ``devices`` say. Each header and footer must agree.

    ``offset`` is the stream offset of ``tail[0]``. Raises :class:`SchemaMismatch` or :class:`FooterMismatch`.
    """
    if len(devices) > max_sections:
        raise LimitExceeded(
            f"at most {max_sections} device sections expected (limit sections), found {len(devices)}",
            offset,
        )
    sections = []
    position = 0
    for device in devices:
        section = _cut(tail, device, position, offset)
        sections.append(section)
        position = section.end
    if position != len(tail):
        raise SchemaMismatch(
            f"device sections end at {offset + position:#x} by the vmdesc, {len(tail) - position} bytes before EOF",
            offset + position,
        )
    return tuple(sections)


def _check_early(early: tuple[EarlyDevice, ...], vmdesc: VmDescription, at: int) -> None:
    for number, one in enumerate(early):
        device = vmdesc.devices[number] if number < len(vmdesc.devices) else None
        if device is None or (device.name, device.instance_id, device.version) != (
            one.idstr,
            one.instance_id,
            one.version_id,
        ):
            found = "none" if device is None else f"{device.name}/{device.instance_id}"
            raise SchemaMismatch(f"vmdesc: device {number} expected to be {one.name}, found {found}", at)
        if device.payload_size != one.payload_bytes:
            raise SchemaMismatch(
                f"{one.name}: {device.payload_size} bytes expected by the vmdesc, {one.payload_bytes} were taken",
                at,
            )


def _cut(tail: memoryview | bytes, device: Device, start: int, offset: int) -> DeviceSection:
    where = f"{device.name}/{device.instance_id}"
    try:
        header = SECTION_HEADER.parse(tail[start : start + 1 + 4 + 1 + len(device.name) + 4 + 4])
    except c.StreamError as error:
        raise SchemaMismatch(f"{where}: section header expected, found the end", offset + start) from error
    except (c.ConstructError, UnicodeDecodeError) as error:
        raise SchemaMismatch(
            f"{where}: section header expected, found a name that is not ASCII", offset + start
        ) from error
    found = (header.type, header.idstr, header.instance_id)
    if found != (SectionType.FULL, device.name, device.instance_id):
        raise SchemaMismatch(
            f"{where}: FULL section expected, found type {header.type:#x} {quoted(header.idstr)}/{header.instance_id}",
            offset + start,
        )
    if device.version is not None and header.version_id != device.version:
        raise SchemaMismatch(
            f"{where}: version {device.version} by the vmdesc, {header.version_id} in the header",
            offset + start,
        )
    payload_start = start + 1 + 4 + 1 + len(device.name) + 4 + 4
    payload_end = payload_start + device.payload_size
    end = payload_end + FOOTER_BYTES
    footer = bytes(tail[payload_end:end])
    expected = FOOTER.build({"type": SectionType.FOOTER, "section_id": header.section_id})
    if footer != expected:
        raise FooterMismatch(
            f"{where}: footer {expected.hex(' ')} expected, found {footer.hex(' ') or 'the end'}",
            offset + payload_end,
        )
    return DeviceSection(device, header.section_id, start, payload_start, payload_end, end)
