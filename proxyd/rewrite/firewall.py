"""What a route lets through at all: sections by name, devices by size and number, multifd packets, known attacks.

The firewall is for what a *source* may send, not for what a destination needs: it changes no byte, and knows nothing of
registers. In mode ``alert`` it tells and lets pass; in mode ``deny`` the first finding refuses the migration, like
every refusal before the commit point. (A postcopy package whose source could not take its guest back is delivered in
either mode: a refusal would lose the guest for sure.) No I/O, no clock.

What it cannot look into is a finding as well, so that ``deny`` lets nothing through unseen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import translate
from functools import cached_property
from typing import Final

from formats.device_tail import MAX_DEVICE_STATE_BYTES, MAX_SECTIONS
from formats.errors import FormatError, SchemaMismatch, quoted
from formats.events import DeviceTail
from formats.multifd import PACKET_BYTES, Compression, DeviceStatePacket, MemoryPacket, MultifdPacket
from formats.package import cut_package
from proxyd.rewrite.known_bad import find_known_bad
from proxyd.rewrite.refusal import RewriteRefused

# Findings that are told of one channel. A source can make as many as it has packets, and each is a line of log.
MAX_FINDINGS: Final = 64

# The receiver's buffer for one packed packet, which zlib and zstd fill unchecked (migration/multifd-zlib.c and
# multifd-zstd.c: ..._recv_setup, ..._recv; QEMU issue 3737, mended in 10.0.13 and 11.1.3).
PACKED_BUFFER_BYTES: Final = 2 * PACKET_BYTES

# QPL and UADK begin with be32 per page (migration/multifd-qpl.c: multifd_qpl_recv).
_LENGTH_BYTES: Final = 4


class FirewallMode(StrEnum):
    """What a finding does."""

    OFF = "off"  # nothing: nobody looks
    ALERT = "alert"  # it is told
    DENY = "deny"  # it refuses the migration


class FirewallRule(StrEnum):
    """Which rule found something; a label of the metrics."""

    SECTION = "section"  # a section that the route does not list
    SIZE = "size"  # a section with too many bytes
    INSTANCES = "instances"  # too many sections of one name
    KNOWN_BAD = "known_bad"  # a value that an attack has used
    MULTIFD = "multifd"  # a packet that no QEMU sends
    UNSEEN = "unseen"  # something that cannot be looked into


@dataclass(frozen=True, slots=True)
class Finding:
    """``str()`` is one sentence: where, what was expected, what was found."""

    rule: FirewallRule
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class DeviceLimit:
    """Bounds for the sections whose name matches the glob ``section``: bytes of one, and how many of one name."""

    section: str
    bytes: int
    instances: int


@dataclass(frozen=True)
class FirewallPolicy:
    """A route's rules. ``sections`` are globs, and none means every section; the first of ``devices`` that matches
    counts, or else ``section_bytes`` and ``instances`` do."""

    mode: FirewallMode
    section_bytes: int = MAX_DEVICE_STATE_BYTES
    instances: int = MAX_SECTIONS
    sections: tuple[str, ...] = ()
    devices: tuple[DeviceLimit, ...] = field(default=())
    known_bad: bool = True

    def lists(self, name: str) -> bool:
        """Whether a section of this name may come."""
        return not self.sections or self._listed.fullmatch(name) is not None

    def limit(self, name: str) -> DeviceLimit:
        """What counts for a section of this name."""
        for pattern, limit in self._limits:
            if pattern.fullmatch(name):
                return limit
        return DeviceLimit("*", self.section_bytes, self.instances)

    @cached_property
    def _listed(self) -> re.Pattern[str]:
        return re.compile("|".join(map(translate, self.sections)))

    @cached_property
    def _limits(self) -> tuple[tuple[re.Pattern[str], DeviceLimit], ...]:
        return tuple((re.compile(translate(limit.section)), limit) for limit in self.devices)


NO_FIREWALL: Final = FirewallPolicy(FirewallMode.OFF)


class Firewall:
    """Holds one channel to a policy; ``findings`` are the first :data:`MAX_FINDINGS`.

    In mode ``deny`` every method raises :class:`RewriteRefused` if it finds something.

    :param found: hears of each of ``findings``, before it refuses anything.
    """

    def __init__(self, policy: FirewallPolicy, found: Callable[[Finding], object] = lambda _finding: None) -> None:
        self.findings: list[Finding] = []
        self._policy = policy
        self._tell = found
        self._seen: Counter[str] = Counter()

    @property
    def denies(self) -> bool:
        """Whether a finding refuses the migration."""
        return self._policy.mode is FirewallMode.DENY

    def stream_section(self, name: str) -> None:
        """A section that is not a device's: memory, dirty bitmaps, VFIO's iterations. Called for each of its parts."""
        if not self._seen[name]:
            self._seen[name] += 1
            self._listed(name)

    def device_section(self, name: str, size: int) -> None:
        """A device's section with ``size`` bytes of payload."""
        limit = self._policy.limit(name)
        self._seen[name] += 1
        if self._seen[name] == 1:
            self._listed(name)
        elif self._seen[name] == limit.instances + 1:
            more = f"at most {limit.instances} sections of this name expected (rule {limit.section!r}), found another"
            self._found(FirewallRule.INSTANCES, f"section {quoted(name)}: {more}")
        self._size(name, size, limit)

    def device_tail(self, tail: DeviceTail) -> None:
        """All device sections of a precopy stream."""
        if self._policy.mode is FirewallMode.OFF:
            return
        for section in tail.sections:
            self.device_section(section.device.name, section.payload_end - section.payload_start)
        if not self._policy.known_bad:
            return
        try:
            for text in find_known_bad(tail):
                self._found(FirewallRule.KNOWN_BAD, text)
        except SchemaMismatch as error:
            self.unseen(f"the values of the devices: {error}")

    def package(self, package: bytes, offset: int, max_sections: int) -> None:
        """All device sections of a postcopy package. It says nothing of what is in them."""
        if self._policy.mode is FirewallMode.OFF:
            return
        try:
            sections = cut_package(package, offset, max_sections)
        except FormatError as error:
            self.unseen(f"a postcopy package: {error}")
            return
        for section in sections:
            self.device_section(section.idstr, section.payload_end - section.payload_start)

    def packet(self, packet: MultifdPacket) -> None:
        """The header of a multifd packet."""
        if isinstance(packet, DeviceStatePacket):
            self.stream_section(packet.idstr)
            self._size(packet.idstr, packet.payload_bytes, self._policy.limit(packet.idstr))
            return
        for text in _wrong_with(packet):
            self._found(FirewallRule.MULTIFD, f"multifd packet: {text}")

    def no_packet(self, error: SchemaMismatch) -> None:
        """What came where a packet's header was expected."""
        self._found(FirewallRule.MULTIFD, str(error))

    def unseen(self, what: str) -> None:
        """Something passes that cannot be looked into."""
        self._found(FirewallRule.UNSEEN, f"not looked into: {what}")

    def _listed(self, name: str) -> None:
        if not self._policy.lists(name):
            text = f"section {quoted(name)}: a section of the route's list expected, found one that is not in it"
            self._found(FirewallRule.SECTION, text)

    def _size(self, name: str, size: int, limit: DeviceLimit) -> None:
        if size > limit.bytes:
            expected = f"at most {limit.bytes} bytes expected (rule {limit.section!r}), found {size}"
            self._found(FirewallRule.SIZE, f"section {quoted(name)}: {expected}")

    def _found(self, rule: FirewallRule, text: str) -> None:
        if self._policy.mode is FirewallMode.OFF:
            return
        finding = Finding(rule, text)
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)
            self._tell(finding)
        if self.denies:
            raise RewriteRefused(f"firewall: {finding}")


def _wrong_with(packet: MemoryPacket) -> Iterator[str]:
    """What no QEMU sends. A destination checks some of it, aborts on some, and writes behind its buffer on some."""
    room, normal, zero = packet.page_count, packet.normal_pages, packet.zero_pages
    if packet.pages_alloc > room or normal + zero > packet.pages_alloc:
        yield (
            f"pages_alloc of at most {room} expected, and as many pages at most, found {packet.pages_alloc}, with "
            f"{normal} pages and {zero} zero pages"
        )
        return
    if any(offset % packet.page_size for offset in packet.offsets):
        yield f"offsets of whole pages of {packet.page_size} bytes expected, found others"
    size, least, most = packet.next_packet_size, 0, 0
    if normal:
        match packet.compression:
            case Compression.NONE:
                least = most = normal * packet.page_size
            case Compression.QPL | Compression.UADK:
                least, most = normal * _LENGTH_BYTES + 1, normal * (_LENGTH_BYTES + packet.page_size)
            case _:
                least, most = 1, PACKED_BUFFER_BYTES
    elif not zero:
        return  # before QEMU 9.0 the size of the last packet is left standing here, and nobody reads it
    if not least <= size <= most:
        overflow = ""
        if size > most and packet.compression in {Compression.ZLIB, Compression.ZSTD}:
            overflow = ": a destination would write behind its buffer, or abort"
        expected = f"next_packet_size of {least} to {most}" if least < most else f"next_packet_size of {most}"
        yield f"{expected} expected for {normal} pages ({packet.compression}), found {size}{overflow}"
