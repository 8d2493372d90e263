"""The postcopy package: the device state of a guest that is about to run at the destination, without its memory.

    08 0007 0004 be32 L                          QEMU_VM_COMMAND, MIG_CMD_PACKAGED
    L bytes := LISTEN  FULL...  PING 3  [PING 0x42]  RUN

(``migration/migration.c: postcopy_start``; the ping 0x42 is QEMU_VM_PING_PACKAGED_LOADED, since QEMU 10.2.) There is
neither EOF nor vmdesc in it.

Theory of operation
-------------------
A FULL section has no length, and nothing here describes it. What is known is where the package ends, how it ends, and
that each section is followed by its footer and by another section or by that end. So every way to read the package as
such a chain is counted, and it is cut only if there is exactly one. The true reading is always among them: an honest
package is never cut wrong. Device payloads hold bytes that the guest chose; a guest that writes footers and headers
there makes a second reading, and its package is not cut at all.
"""

from __future__ import annotations

import struct
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

# Places that might end a section. A package has one for each of its sections; a guest that wants more of our time
# than this gets refused.
MAX_CANDIDATES: Final = 65536

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


class _Reader:
    """All readings of ``data`` from behind LISTEN to ``end``."""

    def __init__(self, data: bytes, end: int, offset: int) -> None:
        self._data = data
        self._end = end
        self._offset = offset
        self._candidates = 0
        self._following: dict[int, tuple[PackagedSection, ...]] = {}

    def read(self, max_sections: int) -> tuple[PackagedSection, ...]:
        first = len(_LISTEN)
        self._explore(first)
        ways = self._count()
        if not ways.get(first):
            reached = max((at for at in self._following), default=first)
            raise SchemaMismatch(
                "package: sections that end where it ends expected, found none that go on here", self._offset + reached
            )
        sections: list[PackagedSection] = []
        at = first
        while at != self._end:
            readings = [section for section in self._following[at] if ways.get(section.end)]
            if len(readings) > 1:
                ends = " or ".join(f"{self._offset + section.end:#x}" for section in readings[:3])
                raise SchemaMismatch(
                    f"package: {readings[0].name} can be read to end at {ends}: without a description nobody can tell "
                    "which is true (a guest can make its devices look so)",
                    self._offset + at,
                )
            (section,) = readings
            if len(sections) >= max_sections:
                raise LimitExceeded(f"at most {max_sections} device sections expected (limit sections)", self._offset)
            sections.append(section)
            at = section.end
        return tuple(sections)

    def _explore(self, first: int) -> None:
        """Find every place where a section can begin, from ``first`` on, and how each of them can go on."""
        found = [first]
        while found:
            at = found.pop()
            if at == self._end or at in self._following:
                continue
            self._following[at] = sections = tuple(self._readings(at))
            found += [section.end for section in sections]

    def _count(self) -> dict[int, int]:
        """In how many ways, 2 being many, the package can be read from each place on."""
        ways = {self._end: 1}
        for at in sorted(self._following, reverse=True):
            ways[at] = min(2, sum(ways.get(section.end, 0) for section in self._following[at]))
        return ways

    def _readings(self, at: int) -> list[PackagedSection]:
        """The section that begins at ``at``, once for each place where it might end."""
        header = self._header(at)
        if header is None:
            return []
        section_id, idstr, instance_id, version_id, payload = header
        footer = struct.pack(">BI", SectionType.FOOTER, section_id)
        readings = []
        place = self._data.find(footer, payload, self._end)
        while place >= 0:
            self._candidates += 1
            if self._candidates > MAX_CANDIDATES:
                raise LimitExceeded(
                    f"package: more than {MAX_CANDIDATES} byte patterns that look like the end of a section",
                    self._offset + at,
                )
            end = place + FOOTER_BYTES
            if (end == self._end or self._header(end) is not None) and self._fits(idstr, version_id, payload, place):
                readings.append(PackagedSection(section_id, idstr, instance_id, version_id, at, payload, place, end))
            place = self._data.find(footer, place + 1, self._end)
        return readings

    def _header(self, at: int) -> tuple[int, str, int, int, int] | None:
        """A FULL section's header at ``at``: id, idstr, instance, version, and where the payload begins."""
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
        return section_id, name.decode("ascii"), instance_id, version_id, payload

    def _fits(self, idstr: str, version_id: int, start: int, end: int) -> bool:
        """Whether a payload from ``start`` to ``end`` can be one of this kind, as far as its layout is known."""
        if (idstr, version_id) != (arm_cpu.IDSTR, arm_cpu.VERSION):
            return True
        try:
            fields = arm_cpu.fields_bytes(self._data[start : start + arm_cpu.ARRAY_LEN_OFFSET + 4])
        except FormatError:
            return False
        return start + fields == end or (start + fields < end and self._data[start + fields] == SectionType.SUBSECTION)
