"""The stream that the campaign in memory carries, and what a destination must make of it; built with struct.

A guest with one vCPU, which has the registers that Linux 6.12 really listed on a Neoverse N1, and nearly no RAM. The
destination is the description of a real Linux 7.3 on the same CPU, which refuses three of them: so proxyd has to
rewrite, and QEMU alone is given a stream that fits.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import cache

from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination
from proxyd.rewrite.policy import RewritePolicy
from tests import builders as b
from tests import recorded
from tests.bench.recorded_tail import FIRST_REGISTER, device_part

DESTINATION = recorded.host_json("7.3", "neoverse-n1")

PROLOGUE = b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH + b.PING
_BLOCK = b"mach-virt.ram"
MEMORY = (
    b.start(2, b.mem_size({_BLOCK: 2 * b.PAGE}) + b.EOS)
    + b.part(2, b.zero_page(0, _BLOCK) + b.zero_page(b.PAGE) + b.EOS)
    + b.end(2, b.zero_page(0, _BLOCK) + b.EOS)
)


@dataclass(frozen=True)
class Sent:
    """A stream with its landmarks: offsets of the first byte of a part."""

    wire: bytes
    devices: list[b.Device]
    memory_at: int
    tail_at: int
    vmdesc_at: int
    """One behind EOF: a destination that has so much has loaded the guest, whatever becomes of the rest."""

    def phase(self, count: int) -> str:
        """What is broken off after ``count`` bytes."""
        if not count:
            return "connected"
        if count <= self.memory_at:
            return "prologue"
        if count <= self.tail_at:
            return "memory"
        return "device state" if count < self.vmdesc_at else "vmdesc"


def _sent(registers: dict[int, int]) -> Sent:
    devices = b.devices(registers=registers)
    wire = PROLOGUE + MEMORY + b.tail(devices)
    tail_at = len(PROLOGUE + MEMORY)
    sections = sum(len(device.wire(3)) for device in devices)
    return Sent(wire, devices, len(PROLOGUE), tail_at, tail_at + sections + 1)


@cache
def source_registers() -> dict[int, int]:
    """The registers of a recorded guest under Linux 6.12."""
    tail = device_part(1).bytes
    at = tail.index(FIRST_REGISTER)
    (count,) = struct.unpack_from(">i", tail, at - 4)
    return dict(zip(*(struct.unpack_from(f">{count}Q", tail, at + i * 8 * count) for i in (0, 1)), strict=True))


@cache
def destination_registers() -> frozenset[int]:
    """The list of the destination's KVM."""
    return frozenset(int(entry["id"], 16) for entry in json.loads(DESTINATION)["registers"])


@cache
def sent() -> Sent:
    """What the source sends."""
    return _sent(source_registers())


@cache
def fitting() -> Sent:
    """What the destination can load: the source's registers without those that it does not have.

    It is what proxyd must make of :func:`sent`, up to the vmdesc, and what QEMU alone is tried with.
    """
    known = destination_registers()
    return _sent({register: value for register, value in source_registers().items() if register in known})


@cache
def policy() -> RewritePolicy:
    """How proxyd rewrites: as for a route with that destination."""
    return RewritePolicy(Destination(HostDescription.parse(DESTINATION, "7.3")), Knowledge.builtin())
