"""A source and a destination that follow QEMU's rules, in memory: what they do at an error decides about the guest.

Mirrors, of QEMU 10.2: ``migration/migration.c: migration_completion, migration_iteration_finish,
process_incoming_migration_co, process_incoming_migration_bh`` and ``migration/savevm.c: qemu_loadvm_state``. The test
with real QEMUs is where those rules come from; here they can be asked at every byte.

* The source looks at its return path only when everything is sent. SHUT(0) is the only good end: whatever else comes,
  it resumes its guest.
* The destination has loaded the guest once it has EOF. It then reads the vmdesc to its end, **whatever that end is**,
  starts the guest, and only then says SHUT: 0, or 1 if the stream broke off in the vmdesc, although its guest runs.
* What breaks off before EOF ends the destination's process, after a SHUT(1) that may still arrive.
"""

from __future__ import annotations

import struct
from contextlib import suppress

import trio

from proxyd.relay.channel import GONE
from tests import builders as b
from tests.faults.memory_stream import Sent, destination_registers
from tests.proxyd.relay.legs import MemoryLeg
from tests.proxyd.relay.stage import PONG_1, SHUT_0, SHUT_1


class Source:
    """The QEMU that has the guest."""

    def __init__(self, leg: MemoryLeg, sent: Sent) -> None:
        self.runs = True
        self.status = "active"
        self._leg = leg
        self._sent = sent
        self._killed = False

    async def run(self) -> None:
        """Migrate."""
        try:
            self.runs = False  # nobody asks before the end: the guest is stopped for the device state
            await self._leg.send_buffers((self._sent.wire,))
            said = b""
            while chunk := await self._leg.receive_some():
                said += chunk
        except GONE:
            pass
        if self._killed:
            return
        self.status = "completed" if said_shut_0(said) else "failed"
        self.runs = self.status == "failed"
        self._leg.close()

    def kill(self) -> None:
        """kill -9: its guest is gone with it."""
        self._killed = True
        self.runs = False
        if self.status != "completed":  # that was said, and heard
            self.status = "killed"
        self._leg.abort()


def said_shut_0(said: bytes) -> bool:
    return said == PONG_1 + SHUT_0


class Destination:
    """The QEMU that waits for it."""

    def __init__(self, expected: Sent) -> None:
        self.loaded = False
        self.wrong = False
        self.error: str | None = None
        self.goes_on = trio.Event()
        self.goes_on.set()
        self._leg: MemoryLeg | None = None
        self._expected = expected
        self._killed = False

    async def run(self, leg: MemoryLeg) -> None:
        """Load what comes over *leg*."""
        self._leg = leg
        load = Load(self._expected)
        try:
            await self._read(leg, load)
        except LoadError as error:
            self.error = str(error)
        if self._killed:
            return
        if load.has_eof and self.error is None:
            self.loaded = True
            self.wrong = not load.is_right()
        elif self.error is None:
            self.error = "the stream broke off"
        with suppress(*GONE):
            await leg.say(SHUT_0 if self.loaded and load.is_whole else SHUT_1)
        leg.close()

    async def _read(self, leg: MemoryLeg, load: Load) -> None:
        answered = False
        while not load.is_whole:
            try:
                chunk = await leg.receive_some()
            except GONE:
                return
            await self.goes_on.wait()
            if self._killed or not chunk:
                return
            load.feed(chunk)
            if not answered and len(load.got) >= self._expected.memory_at:
                answered = True
                try:
                    await leg.say(PONG_1)
                except GONE:
                    return

    def kill(self) -> None:
        """kill -9."""
        self._killed = True
        self.loaded = False
        self.goes_on.set()
        if self._leg is not None:
            self._leg.abort()


class LoadError(Exception):
    """What the destination refuses."""


class Load:
    """What a destination has read so far, parsed for the one guest of :mod:`.memory_stream`."""

    def __init__(self, expected: Sent) -> None:
        self.got = bytearray()
        self.has_eof = False
        self.is_whole = False
        """The vmdesc has come as well."""
        self._expected = expected
        self._at = expected.tail_at
        self._devices = iter(expected.devices)
        self._next: b.Device | None = next(self._devices)
        self._wrong = False

    def is_right(self) -> bool:
        """Whether the state is the one that was sent."""
        return (
            not self._wrong
            and bytes(self.got[: self._expected.tail_at]) == (self._expected.wire[: self._expected.tail_at])
        )

    def feed(self, chunk: bytes) -> None:
        """Go on with *chunk*; raises :class:`LoadError` for what the destination's KVM does not take."""
        self.got += chunk
        while self._next is not None and self._section(self._next):
            self._next = next(self._devices, None)
        if self._next is None and not self.has_eof and len(self.got) > self._at:
            if self.got[self._at]:
                raise LoadError(f"at {self._at}: EOF expected, found section type {self.got[self._at]}")
            self.has_eof = True
        if self.has_eof and len(self.got) >= self._at + 6:
            kind, length = struct.unpack_from(">BI", self.got, self._at + 1)
            # QEMU takes a guest without a vmdesc (savevm.c: "It doesn't seem worth failing at this point").
            self.is_whole = kind != 6 or len(self.got) >= self._at + 6 + length

    def _section(self, device: b.Device) -> bool:
        """Whether the whole section of *device* has come; if it has, look at it."""
        head = device.wire(0)[: -5 - len(device.payload)]
        size = len(device.payload)
        if device.name == b"cpu":
            count_at = self._at + len(head) + _COUNT_AT
            if len(self.got) < count_at + 4:
                return False
            (count,) = struct.unpack_from(">i", self.got, count_at)
            size += 16 * (count - _count(device))
        end = self._at + len(head) + size + 5
        if len(self.got) < end:
            return False
        found = bytes(self.got[self._at : end])
        if found[5 : len(head)] != head[5:] or found[0:1] != b"\x04":
            raise LoadError(f"at {self._at}: the section {device.name!r} expected")
        if device.name == b"cpu":
            unknown = set(_registers(found[len(head) :])) - destination_registers()
            if unknown:
                raise LoadError(f"register {min(unknown):#x} is unknown here")
        if found[len(head) : -5] != device.payload:
            self._wrong = True
        self._at = end
        return True


def _registers(payload: bytes) -> dict[int, int]:
    (count,) = struct.unpack_from(">i", payload, _COUNT_AT)
    arrays = [struct.unpack_from(f">{count}Q", payload, _COUNT_AT + 4 + i * 8 * count) for i in (0, 1)]
    return dict(zip(*arrays, strict=True))


def _count(device: b.Device) -> int:
    return int(struct.unpack_from(">i", device.payload, _COUNT_AT)[0])


# Behind the fields of vmstate_arm_cpu that come before the list (target/arm/machine.c).
_COUNT_AT = sum(size * (count or 1) for _, count, size in b._CPU_BEFORE)
