"""A flight recording: one migration's device state before and after, and all that decided what became of it.

    "proxyd-recording 1\\n"  be32 n  json[n]  zlib(before)  zlib(after)

Device state only: registers, interrupt controllers, devices' queues; never a page of RAM. It is as secret as the guest
is, all the same. The JSON (:class:`Recording`) has the lengths of both parts and everything that is needed to do it
again: destination, rules, limits. Only the knowledge base is not in it, but its digest is.

No I/O: :mod:`proxyd.recorder` writes, ``proxyd replay`` reads.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from formats.device_tail import EarlyDevice, TailCollector
from formats.errors import FormatError
from formats.events import Buffer, DeviceTail
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.package import package_header, rewrite_package
from proxyd.rewrite.plan import Destination, Outcome, Plan
from proxyd.rewrite.policy import RewritePolicy, StreamLimits
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.report import RewriteReport
from proxyd.rewrite.tail import SelfCheckFailed, rewrite_tail

MAGIC: Final = b"proxyd-recording 1\n"
SUFFIX: Final = ".proxyd-recording"

_LENGTH: Final = struct.Struct(">I")

# The largest destination is 200 KB, the largest plan 1 MB; nobody's file may make us read more.
MAX_HEADER_BYTES: Final = 64 << 20


class RecordingError(ValueError):
    """Not a recording, or not a whole one. ``str()`` is one sentence."""


class Evidence:
    """What a rewriter saw of the device state: as it came, and as it was made ready.

    ``package``: a postcopy package, without its header. ``after`` is empty where nothing was made ready.
    """

    __slots__ = ("after", "before", "early", "offset", "package", "page_size")

    def __init__(
        self, before: Buffer, offset: int, page_size: int, early: tuple[EarlyDevice, ...] = (), *, package: bool = False
    ) -> None:
        self.before = before
        self.offset = offset
        self.page_size = page_size
        self.early = early
        self.package = package
        self.after: tuple[Buffer, ...] = ()


class Early(msgspec.Struct, frozen=True):
    """A device section that came before memory."""

    idstr: str
    instance_id: int
    version_id: int
    payload_bytes: int


class Recording(msgspec.Struct, frozen=True):
    """The JSON. ``time`` is RFC 3339, ``outcome`` one of ``proxyd status``, or ``released``; ids are hex strings.

    ``knowledge`` is the SHA-256 of the knowledge base's files. ``host`` is the host description's document and
    ``profile`` the profile's text. ``report`` is that of ``proxyd plan --json``.
    ``denied``: the route's firewall has refused it, whose rules are not in here.
    """

    version: int
    proxyd: str
    knowledge: str
    time: str
    migration: str
    route: str
    source: str
    machine: str | None
    outcome: str
    reason: str
    kind: str
    offset: int
    page_size: int
    early: tuple[Early, ...]
    host: dict[str, Any] | None
    profile: str | None
    allow: tuple[str, ...]
    limits: dict[str, int]
    report: dict[str, Any] | None
    before_bytes: int
    after_bytes: int
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording and its two parts."""

    facts: Recording
    before: bytes
    after: bytes

    def to_bytes(self) -> bytes:
        """The file."""
        before, after = zlib.compress(self.before, 1), zlib.compress(self.after, 1)
        facts = msgspec.structs.replace(self.facts, before_bytes=len(before), after_bytes=len(after))
        header = msgspec.json.encode(facts)
        return MAGIC + _LENGTH.pack(len(header)) + header + before + after

    @classmethod
    def parse(cls, data: bytes) -> Recorded:
        """From the file. Raises :class:`RecordingError`."""
        if not data.startswith(MAGIC):
            raise RecordingError(f"{MAGIC!r} expected, found {data[: len(MAGIC)]!r}")
        start = len(MAGIC) + _LENGTH.size
        length = int.from_bytes(data[len(MAGIC) : start], "big")
        if len(data) < start or length > MAX_HEADER_BYTES:
            raise RecordingError(f"a header of at most {MAX_HEADER_BYTES} bytes expected, found {length}")
        try:
            facts = msgspec.json.decode(data[start : start + length], type=Recording)
            middle = start + length + facts.before_bytes
            end = middle + facts.after_bytes
            if len(data) != end:
                raise RecordingError(f"{end} bytes expected, found {len(data)}")
            return cls(facts, zlib.decompress(data[start + length : middle]), zlib.decompress(data[middle:end]))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, zlib.error) as error:
            raise RecordingError(f"a whole recording expected, found: {error}") from error


@dataclass(frozen=True, slots=True)
class Replayed:
    """What comes of a recording now. ``after`` is empty, and ``error`` says why, where nothing can be made ready."""

    after: bytes
    plan: Plan | None
    error: str | None


def destination_of(facts: Recording) -> Destination | None:
    """Where the migration went. Raises :class:`ValueError` for what this version cannot read."""
    host = (
        None if facts.host is None else HostDescription.parse(msgspec.json.encode(facts.host), "the recording's host")
    )
    profile = None if facts.profile is None else Profile.parse(facts.profile.encode(), "the recording's profile")
    return None if host is None and profile is None else Destination(host, profile)


def replay(recorded: Recorded, destination: Destination | None, allow: frozenset[int]) -> Replayed:
    """Do it again, by the rules of this version. Raises nothing that a stream can cause."""
    facts = recorded.facts
    limits = StreamLimits(**facts.limits)
    policy = RewritePolicy(destination, Knowledge.builtin(), allow)
    try:
        if facts.kind == "package":
            package = rewrite_package(recorded.before, facts.offset, policy, limits)
            return _outcome(package.plan, package.header + package.package)
        tail = rewrite_tail(_tail(recorded, limits), policy, limits)
        return _outcome(tail.plan, bytes(tail.devices) + bytes(tail.vmdesc))
    except (FormatError, SelfCheckFailed) as error:
        return Replayed(b"", None, str(error))


def was_forced(recorded: Recorded) -> bool:
    """Whether it is a package that had to be delivered as it came, because its source could not take the guest back."""
    before = recorded.before
    return recorded.facts.kind == "package" and recorded.after == package_header(len(before)) + before


def _outcome(plan: Plan | None, after: bytes) -> Replayed:
    if plan is not None and plan.outcome is Outcome.REFUSED:
        return Replayed(b"", plan, "; ".join(map(str, plan.refusals)))
    return Replayed(after, plan, None)


def _tail(recorded: Recorded, limits: StreamLimits) -> DeviceTail:
    facts = recorded.facts
    early = tuple(EarlyDevice(one.idstr, one.instance_id, one.version_id, one.payload_bytes) for one in facts.early)
    collector = TailCollector(
        facts.offset, facts.page_size, limits.device_state_bytes, limits.sections, limits.name_bytes, early
    )
    complete = collector.add(recorded.before)
    if complete is None:
        raise collector.diagnose()
    return DeviceTail(facts.offset, recorded.before, complete.sections, complete.vmdesc, complete.eof, early)


def report_of(facts_machine: str | None, plan: Plan | None) -> dict[str, Any] | None:
    """As ``proxyd plan --json`` has it."""
    return None if plan is None else RewriteReport(facts_machine, plan).to_json_dict()
