"""One stream on its way: forward, hold, release, or refuse. No I/O, no clock.

The life of a stream (``docs/architecture.md`` has the picture):

    PROLOGUE   everything before the first section: header, configuration, commands. Held until the stream is
               acceptable: the destination is not even dialled for one that is not. QEMU waits for no answer before it.
    MEMORY     everything passes as it comes.
    HOLDING    from the first device section to the end of the vmdesc nothing leaves; or from the header of a postcopy
               package to its last byte.
    REHEARSING where the policy asks for it: everything is ready to leave, and waits for release(), which is given what
               the destination's KVM said to the registers.
    RELEASED   the rewritten tail was handed out in one piece: past this point there is no way back.
    OPAQUE     another architecture: everything passes untouched.

Raising before RELEASED is always safe for the guest: the destination has no device state, so the source resumes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from formats import events
from formats.errors import FormatError, LimitExceeded, SchemaMismatch, quoted
from formats.package import source_waits
from formats.parser import ParserLimits, StreamParser
from formats.savevm import MigCommand, SectionType
from proxyd.rewrite.firewall import Finding, Firewall
from proxyd.rewrite.package import package_header, rewrite_package
from proxyd.rewrite.plan import Outcome
from proxyd.rewrite.policy import PostcopyPolicy, ReturnPathPolicy, RewritePolicy, StreamLimits
from proxyd.rewrite.recording import Evidence
from proxyd.rewrite.refusal import MAY_LOSE_GUEST, NO_RETURN_PATH, RewriteRefused, refused_for, takes_guest_back
from proxyd.rewrite.report import RewriteReport
from proxyd.rewrite.tail import SelfCheckFailed, rewrite_tail

if TYPE_CHECKING:
    from formats.events import Buffer
    from proxyd.rewrite.plan import Plan
    from proxyd.rewrite.rehearsal import Rehearsal

# The prologue is held. QEMU's has 60 to 200 bytes: header, configuration, one or two commands; one with the names of
# all capabilities and the longest machine type has less than 2 KiB. Reading commands takes 13 us each, from anybody
# who connects.
MAX_PROLOGUE_BYTES: Final = 8 << 10

_KINDS: Final = {SectionType.START: "start", SectionType.PART: "part", SectionType.END: "end"}

NO_DESTINATION: Final = "the route names no destination host or profile"

_AS_IT_CAME: Final = "delivered as it came, because its source (before QEMU 10.2) cannot take the guest back"


class Phase(StrEnum):
    """Where a stream is."""

    PROLOGUE = "prologue"
    MEMORY = "memory"
    HOLDING = "holding"
    REHEARSING = "rehearsing"
    RELEASED = "released"
    OPAQUE = "opaque"


class StreamRewriter:
    """Rewrites one stream according to ``policy``.

    ``feed``, ``release`` and ``finish`` return what may go to the destination, in order. They raise
    :class:`~formats.errors.FormatError`, :class:`RewriteRefused` or :class:`~proxyd.rewrite.tail.SelfCheckFailed`;
    what is held at that moment is never handed out.

    ``planned`` is the plan that awaits its rehearsal; None in every phase but REHEARSING. ``postcopy_advised``: the
    source may switch to postcopy; ``switched``: it has. ``forced`` says why a postcopy package was delivered as
    it came although it is not fit to be: its source has given the guest up already, and a refusal would have lost it
    for sure. ``seekable_from`` is for files, and :class:`~formats.parser.StreamParser`'s: whoever feeds one goes on at
    ``offset``. ``evidence`` is what a policy that records wants to keep of the device state.
    """

    def __init__(
        self, policy: RewritePolicy, limits: StreamLimits | None = None, *, seekable_from: int | None = None
    ) -> None:
        self.policy = policy
        self.limits = limits or StreamLimits()
        self.phase = Phase.PROLOGUE
        self.bytes_in = 0
        self.machine: str | None = None
        self.return_path = False
        self.passthrough_reason: str | None = None
        self.report: RewriteReport | None = None
        self.sections: Counter[str] = Counter()
        self.planned: Plan | None = None
        self.postcopy_advised = False
        self.switched = False
        self.forced: str | None = None
        self.evidence: Evidence | None = None
        self._firewall = Firewall(policy.firewall)
        self._postcopy_ram = False
        self._unread = False  # released, and what follows is passed on unseen
        self._ready: list[Buffer] = []
        self._prologue: list[Buffer] = []
        self._prologue_bytes = 0
        bounds = ParserLimits(self.limits.device_state_bytes, self.limits.sections, self.limits.name_bytes)
        self._parser = StreamParser(bounds, seekable_from=seekable_from)

    @property
    def held_bytes(self) -> int:
        """Bytes that were taken in and not handed out."""
        return self._prologue_bytes + self._parser.held_bytes + sum(map(len, self._ready))

    @property
    def findings(self) -> Sequence[Finding]:
        """What the route's firewall has found so far; the list only grows."""
        return self._firewall.findings

    @property
    def denied(self) -> bool:
        """Whether the firewall has refused the stream."""
        return self._firewall.denies and bool(self._firewall.findings)

    @property
    def page_size(self) -> int | None:
        """The guest's pages, in bytes, once the configuration was read; None where nothing is known of them."""
        return None if self.phase in {Phase.PROLOGUE, Phase.OPAQUE} else self._parser.page_size

    @property
    def offset(self) -> int:
        """Stream offset of the next byte that is wanted. Not that of the next one there is: mapped-ram files jump."""
        return self._parser.offset

    @property
    def jumps(self) -> int:
        """How often the stream went on elsewhere in its file: behind each block of a mapped-ram file."""
        return 0 if self._parser.mapped_ram is None else len(self._parser.mapped_ram.blocks)

    @property
    def tail_offset(self) -> int | None:
        """Stream offset of the device part's first byte, once it was seen. What is before it is never changed."""
        return self._parser.tail_offset

    @property
    def waiting_for(self) -> str:
        """What would have to come next, for the message of a time-out."""
        return self._parser.waiting_for

    def _blind(self) -> bool:
        """Whether the parser reads no more: it would not understand what follows, and need not."""
        return self.phase is Phase.OPAQUE or self._unread

    def feed(self, chunk: bytes | memoryview) -> list[Buffer]:
        """Take ``chunk``; returns the buffers to send."""
        self.bytes_in += len(chunk)
        if self._blind():
            return [chunk]
        out: list[Buffer] = []
        for event in self._parser.feed(chunk):
            # What comes behind the device state must not overtake it.
            self._take(event, self._ready if self.phase is Phase.REHEARSING else out)
            if self._blind():
                out.append(self._parser.rest())
                return [buffer for buffer in out if len(buffer)]
        if self._parser.in_device_tail and self.phase is Phase.MEMORY:
            self.phase = Phase.HOLDING
        return out

    def release(self, rehearsal: Rehearsal) -> list[Buffer]:
        """Hand out what was rehearsed, or raise :class:`RewriteRefused` because of what was found.

        Only in phase REHEARSING, once.
        """
        if self.planned is None:
            raise AssertionError("only a plan that waits for its rehearsal can be released")
        report = RewriteReport(machine=self.machine, plan=self.planned, rehearsal=rehearsal)
        self.planned = None
        refusals = rehearsal.refusals(self.policy.allow)
        if refusals:
            raise refused_for(refusals, report)
        self.report = report
        self.phase = Phase.RELEASED
        out, self._ready = self._ready, []
        return out

    def finish(self) -> list[Buffer]:
        """The source closed its side. Raises :class:`~formats.errors.FormatError` if the stream is not whole."""
        if not self._blind():
            self._parser.finish()
        return []

    def close(self) -> None:
        """It is over, one way or another: let go of what is held, which is large. It is only to be asked facts then."""
        self._parser.close()
        self._ready.clear()
        self._prologue.clear()
        self._prologue_bytes = 0

    def _take(self, event: events.Event, out: list[Buffer]) -> None:
        match event:
            case events.DeviceTail():
                self._release(event, out)
            case events.PackageHeader():
                if self.phase is Phase.PROLOGUE:
                    # No QEMU does that, and what is asked of a stream is asked at its first section.
                    raise SchemaMismatch("memory expected before a postcopy package, found none", event.offset)
                self.switched = True
                if event.length > self.limits.device_state_bytes:
                    self._give_up(event, out)  # or else the parser does
            case events.Package():
                self._release_package(event, out)
            case events.Configuration():
                self.machine = event.machine
                self._hold(event)
                if event.page_bits is None:
                    self.passthrough_reason = (
                        f"machine {event.machine!r} is not arm (its page size is fixed): nothing is rewritten"
                    )
                    self._firewall.unseen(f"all sections, because machine {quoted(event.machine)} is not arm")
                    self._open(Phase.OPAQUE, out)
            case events.Command(command=MigCommand.OPEN_RETURN_PATH):
                self.return_path = True
                self._pass(event, out)
            case events.Command(command=MigCommand.POSTCOPY_ADVISE):
                self.postcopy_advised = True
                self._postcopy_ram = bool(event.data)
                self._pass(event, out)
            case events.SectionHeader():
                self._firewall.stream_section(event.idstr)
                self._forward(event, out)
                self.sections[_KINDS[event.type]] += 1
            case events.EarlySection():
                self._firewall.device_section(event.device.idstr, event.device.payload_bytes)
                self._forward(event, out)
                self.sections["full"] += 1
            case events.BulkData() | events.SectionFooter():
                out.append(event.raw)
            case _:
                self._pass(event, out)

    def _pass(self, event: events.Event, out: list[Buffer]) -> None:
        if self.phase is Phase.PROLOGUE:
            self._hold(event)
        else:
            out.append(event.raw)

    def _hold(self, event: events.Event) -> None:
        self._prologue.append(event.raw)
        self._prologue_bytes += len(event.raw)
        if self._prologue_bytes > MAX_PROLOGUE_BYTES:
            raise LimitExceeded(
                f"a first section within {MAX_PROLOGUE_BYTES} bytes expected, found none",
                event.offset,
            )

    def _forward(self, event: events.SectionHeader | events.EarlySection, out: list[Buffer]) -> None:
        """The first section: the last moment at which a stream that could lose its guest is turned away unharmed."""
        if self.phase is Phase.PROLOGUE:
            if self.policy.return_path is ReturnPathPolicy.REQUIRE and not self.return_path:
                raise RewriteRefused(NO_RETURN_PATH)
            if self._postcopy_ram and not self._may_become_postcopy():
                raise RewriteRefused(MAY_LOSE_GUEST.format(machine=self.machine))
            self._open(Phase.MEMORY, out)
        out.append(event.raw)

    def _may_become_postcopy(self) -> bool:
        if self.policy.destination is None or self.policy.postcopy is not PostcopyPolicy.PROVEN:
            return True
        return takes_guest_back(self.machine)

    def _takes_back(self, package: bytes) -> bool:
        """Whether the source resumes its guest if this package is refused."""
        return source_waits(package) or (self.return_path and takes_guest_back(self.machine))

    def _open(self, phase: Phase, out: list[Buffer]) -> None:
        out += self._prologue
        self._prologue.clear()
        self._prologue_bytes = 0
        self.phase = phase

    def _release(self, tail: events.DeviceTail, out: list[Buffer]) -> None:
        self.phase = Phase.HOLDING
        self.sections["full"] += len(tail.sections)
        if self.policy.record:
            self.evidence = Evidence(tail.raw, tail.offset, tail.vmdesc.page_size, tail.early)
        self._firewall.device_tail(tail)
        result = rewrite_tail(tail, self.policy, self.limits)
        if result.plan is None:
            self.passthrough_reason = (
                NO_DESTINATION
                if self.policy.destination is None
                else "the device state has no arm vCPU with a register list"
            )
        else:
            report = RewriteReport(machine=self.machine, plan=result.plan)
            if result.plan.outcome is Outcome.REFUSED:
                raise refused_for(result.plan.refusals, report)
            self._made_ready(result.devices, result.vmdesc)
            if self.policy.rehearse:
                self.planned = result.plan
                self.phase = Phase.REHEARSING
                self._ready += (result.devices, result.vmdesc)
                return
            self.report = report
        self._made_ready(result.devices, result.vmdesc)
        # The point of no return: from here on the guest may come to life on the destination.
        self.phase = Phase.RELEASED
        out += (result.devices, result.vmdesc)

    def _made_ready(self, *after: Buffer) -> None:
        if self.evidence is not None:
            self.evidence.after = after

    def unproven(self) -> Evidence | None:
        """What is held of device state that was not understood, for a policy that records."""
        held = self._parser.held_tail
        if not self.policy.record or self.evidence is not None or held is None:
            return self.evidence
        return Evidence(bytes(held), self._parser.tail_offset or 0, self._parser.page_size)

    def _release_package(self, event: events.Package, out: list[Buffer]) -> None:
        """As :meth:`_release`, for postcopy; and a source that cannot take its guest back is never refused here."""
        self.phase = Phase.HOLDING
        package = bytes(event.raw)
        if self.policy.record:
            self.evidence = Evidence(package, event.offset, 0, package=True)
        try:
            header, devices = self._rewritten_package(package, event.offset)
        except (FormatError, RewriteRefused, SelfCheckFailed) as error:
            if self._takes_back(package):
                raise
            self.planned = self.report = None
            self.forced = f"{_AS_IT_CAME}: {error}"
            header, devices = package_header(len(package)), package
        self._made_ready(header, devices)
        if self.planned is not None:
            self.phase = Phase.REHEARSING
            self._ready += (header, devices)
            return
        self.phase = Phase.RELEASED
        out += (header, devices)

    def _give_up(self, event: events.PackageHeader, out: list[Buffer]) -> None:
        """A package that is too large to be held passes unread where a refusal would lose the guest for sure."""
        if self.policy.destination is None:
            self.passthrough_reason = NO_DESTINATION
        elif self.policy.postcopy is PostcopyPolicy.SOURCES_10_2 or (
            self.return_path and takes_guest_back(self.machine)
        ):
            return
        else:
            self.forced = (
                f"{_AS_IT_CAME}: postcopy package of at most {self.limits.device_state_bytes} bytes expected "
                f"(limit device_state_bytes), found {event.length}"
            )
        try:
            self._firewall.unseen(f"a postcopy package of {event.length} bytes")
        except RewriteRefused as error:
            if self.return_path and takes_guest_back(self.machine):
                raise
            self.forced = self.forced or f"{_AS_IT_CAME}: {error}"
        self._unread = True
        self.phase = Phase.RELEASED
        out.append(event.raw)

    def _rewritten_package(self, package: bytes, offset: int) -> tuple[bytes, bytes]:
        """Header and package to send; raises what stands against it."""
        self._firewall.package(package, offset, self.limits.sections)
        if self.policy.destination is None:
            self.passthrough_reason = NO_DESTINATION
            return package_header(len(package)), package
        result = rewrite_package(package, offset, self.policy, self.limits)
        self.sections["full"] += result.sections
        if result.plan is None:
            self.passthrough_reason = "the device state has no arm vCPU with a register list"
            return result.header, result.package
        report = RewriteReport(machine=self.machine, plan=result.plan)
        if result.plan.outcome is Outcome.REFUSED:
            raise refused_for(result.plan.refusals, report)
        if self.policy.rehearse and self._takes_back(package):
            self.planned = result.plan
        else:
            self.report = report
        return result.header, result.package


__all__ = ["NO_RETURN_PATH", "FormatError", "Phase", "RewriteRefused", "StreamRewriter"]
