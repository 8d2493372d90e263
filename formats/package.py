"""The postcopy package: the device state of a guest that is about to run at the destination, without its memory.

    08 0007 0004 be32 L                          QEMU_VM_COMMAND, MIG_CMD_PACKAGED
    L bytes := LISTEN  FULL...  PING 3  [PING 0x42]  RUN

(``migration/migration.c: postcopy_start``; the ping 0x42 is QEMU_VM_PING_PACKAGED_LOADED, since QEMU 10.2.) There is
neither EOF nor vmdesc in it.

Theory of operation
-------------------
A FULL section has no length, and nothing here describes it. What is known is where the package ends, how it ends, that
each section is followed by its footer and by another section or by that end, that no two sections have one id, and how
long a vCPU's section is. So every way to read the package as such a chain is counted, and it is cut only if there is
exactly one. The true reading is always among them: an honest package is never cut wrong.

Device payloads hold bytes that the guest chose. To make a second reading it has to write a footer and a header into one
device, the header with the id of another that comes behind; then the package is not cut at all.

Each place that may end a section is looked at once, from the last to the first: the guest stands still meanwhile.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from formats.errors import FormatError, LimitExceeded, SchemaMismatch
from formats.framing import FOOTER_BYTES
from formats.savevm import SectionType
from formats.schemas import arm_cpu

_COMMAND: Final = struct.Struct(">BHH")
_LISTEN: Final = bytes.fromhex("0800040000")
_PING_3: Final = bytes.fromhex("080002000400000003")
_PING_LOADED: Final = bytes.fromhex("080002000400000042")
_RUN: Final = bytes.fromhex("0800050000")

# Longest first: one ends as the other does.
_ENDS: Final = (_PING_3 + _PING_LOADED + _RUN, _PING_3 + _RUN)

PACKAGED_HEADER: Final = struct.Struct(">BHHI")

# Places that might end a section. A package has one for each of its sections, and chance adds one in 200 KB of noise; a
# guest that wants more of our time than this gets refused.
MAX_CANDIDATES: Final = 65536

# Steps in search of a second reading, where ids that occur twice have to be ruled out one by one.
MAX_STEPS: Final = 4 * MAX_CANDIDATES

# A footer (7e be32), not taken, so that those which overlap are all found, and the beginning of a section behind it.
_END: Final = re.compile(rb"\x7e(?=.{4}\x04.{4}[^\0][ -~])", re.DOTALL)

_PRINTABLE: Final = bytes(range(0x20, 0x7F))


@dataclass(frozen=True, slots=True)
class PackagedSection:
    """One FULL section. All positions are indices into the package."""

    section_id: int
    idstr: str
    instance_id: int
    version_id: int
    start: int
    payload_start: int
    payload_end: int
    end: int

    @property
    def name(self) -> str:
        """``idstr/instance_id``."""
        return f"{self.idstr}/{self.instance_id}"


def source_waits(package: bytes | memoryview) -> bool:
    """Whether the source can still take its guest back: it asks to be told that the package was loaded.

    So do QEMU 10.2 and later, with a return path. An older source has given its guest up when it sends a package.
    """
    return bytes(package[-len(_ENDS[0]) :]) == _ENDS[0]


def cut_package(package: bytes | memoryview, offset: int, max_sections: int) -> tuple[PackagedSection, ...]:
    """Cut a package into its sections. ``offset`` is the stream offset of its first byte.

    :raises SchemaMismatch: it cannot be read as a package, or in more than one way.
    :raises LimitExceeded: more sections than ``max_sections``, or more places that look like the end of one than
        :data:`MAX_CANDIDATES`.
    """
    data = bytes(package)
    if not data.startswith(_LISTEN):
        raise SchemaMismatch(f"package: {_LISTEN.hex()} (LISTEN) expected, found {data[: len(_LISTEN)].hex()}", offset)
    ending = next((ending for ending in _ENDS if data.endswith(ending)), None)
    if ending is None:
        found = data[-len(_RUN) :].hex()
        raise SchemaMismatch(f"package: PING 3 and RUN expected at its end, found {found}", offset + len(data))
    return _Reader(data, len(data) - len(ending), offset).read(max_sections)


@dataclass(frozen=True, slots=True)
class _Header:
    """What a section begins with, and where its payload ends: at ``least`` if that is ``exact``, or there or later."""

    section_id: int
    idstr: str
    instance_id: int
    version_id: int
    payload: int
    least: int
    exact: bool


@dataclass(slots=True)
class _Choice:
    """Where one section can end: ``left`` of the negated places ``ends``, up to index ``next``."""

    ends: list[int]
    next: int
    left: int

    def take(self) -> int:
        """The first of them in the package."""
        self.next -= 1
        self.left -= 1
        return -self.ends[self.next]


class _Reader:
    """All readings of ``data`` from behind LISTEN to ``end``."""

    def __init__(self, data: bytes, end: int, offset: int) -> None:
        self._data = data
        self._end = end
        self._offset = offset
        self._headers: dict[int, _Header] = {}
        self._ends: dict[int, list[int]] = {}  # by id; negated, so that they ascend

    def read(self, max_sections: int) -> tuple[PackagedSection, ...]:
        first = len(_LISTEN)
        if first == self._end:
            return ()
        header = self._header(first)
        if header is not None:
            self._headers[first] = header
            self._keep(self._places(first))
        readings = self._readings(first)
        if not readings:
            raise SchemaMismatch(
                "package: sections that end where it ends expected, found none that go on so", self._offset + first
            )
        if len(readings) > 1:
            raise self._ambiguous(first, *readings)
        if len(readings[0]) > max_sections:
            raise LimitExceeded(f"at most {max_sections} device sections expected (limit sections)", self._offset)
        return tuple(self._sections(first, readings[0]))

    def _places(self, first: int) -> list[int]:
        """Every place of a footer that a section can follow, or the end. Notes the headers behind them."""
        places = []
        for match in _END.finditer(self._data, first, self._end):
            start = match.start() + FOOTER_BYTES
            header = self._header(start)
            if header is None:
                continue
            self._headers[start] = header
            places.append(match.start())
            if len(places) > MAX_CANDIDATES:
                raise LimitExceeded(
                    f"package: more than {MAX_CANDIDATES} byte patterns that look like the end of a section",
                    self._offset,
                )
        last = self._end - FOOTER_BYTES
        if self._data[last] == SectionType.FOOTER:
            places.append(last)
        return places

    def _keep(self, places: list[int]) -> None:
        """Of all places those from which the package can be read to its end."""
        for place in reversed(places):
            start = place + FOOTER_BYTES
            if start == self._end or self._continuations(self._headers[start]).left:
                self._ends.setdefault(int.from_bytes(self._data[place + 1 : start], "big"), []).append(-place)

    def _continuations(self, header: _Header) -> _Choice:
        """The places at which a section with this header can end."""
        ends = self._ends.get(header.section_id, [])
        count = bisect_right(ends, -header.least)
        if header.exact:
            return _Choice(ends, count, int(count > 0 and ends[count - 1] == -header.least))
        return _Choice(ends, count, count)

    def _readings(self, first: int) -> list[list[int]]:
        """Up to two readings in which no id occurs twice, each as the places of its sections' footers."""
        if first not in self._headers:
            return []
        readings: list[list[int]] = []
        path: list[int] = []
        ids = [self._headers[first].section_id]
        used = set(ids)
        choices = [self._continuations(self._headers[first])]
        for _ in range(MAX_STEPS):
            if not choices[-1].left:
                choices.pop()
                used.discard(ids.pop())
                if not choices:
                    return readings
                path.pop()
                continue
            place = choices[-1].take()
            start = place + FOOTER_BYTES
            if start == self._end:
                readings.append([*path, place])
                if len(readings) == 2:
                    return readings
            elif self._headers[start].section_id not in used:
                header = self._headers[start]
                path.append(place)
                ids.append(header.section_id)
                used.add(header.section_id)
                choices.append(self._continuations(header))
        raise LimitExceeded(
            f"package: not read within {MAX_STEPS} steps (a guest can make its devices look so)", self._offset
        )

    def _ambiguous(self, first: int, one: list[int], other: list[int]) -> SchemaMismatch:
        """Where two readings part."""
        start = first
        for this, that in zip(one, other, strict=False):
            if this != that:
                break
            start = this + FOOTER_BYTES
        header = self._headers[start]
        ends = " or ".join(f"{self._offset + place + FOOTER_BYTES:#x}" for place in sorted((this, that)))
        return SchemaMismatch(
            f"package: {header.idstr}/{header.instance_id} can be read to end at {ends}: without a description nobody "
            "can tell which is true (a guest can make its devices look so)",
            self._offset + start,
        )

    def _sections(self, first: int, places: list[int]) -> Iterator[PackagedSection]:
        start = first
        for place in places:
            header = self._headers[start]
            end = place + FOOTER_BYTES
            yield PackagedSection(
                header.section_id,
                header.idstr,
                header.instance_id,
                header.version_id,
                start,
                header.payload,
                place,
                end,
            )
            start = end

    def _header(self, at: int) -> _Header | None:
        """The FULL section's header at ``at``, if there can be one."""
        data = self._data
        if at + 6 > self._end or data[at] != SectionType.FULL:
            return None
        length = data[at + 5]
        payload = at + 6 + length + 8
        name = data[at + 6 : at + 6 + length]
        if not name or payload + FOOTER_BYTES > self._end or name.translate(None, _PRINTABLE):
            return None
        section_id = int.from_bytes(data[at + 1 : at + 5], "big")
        instance_id, version_id = struct.unpack_from(">II", data, payload - 8)
        idstr = name.decode("ascii")
        least, exact = payload, False
        if (idstr, version_id) == (arm_cpu.IDSTR, arm_cpu.VERSION):
            try:
                size, exact = arm_cpu.known_bytes(data, payload)
            except FormatError:
                return None
            least += size
        return _Header(section_id, idstr, instance_id, version_id, payload, least, exact)
