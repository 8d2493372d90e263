"""Legal migration streams, built with struct and json: never with ``formats``, which they test.

The bytes follow QEMU's writers: ``savevm.c`` (framing), ``ram.c`` (records), ``target/arm/machine.c`` (cpu).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PAGE = 4096
MAGIC = b"QEVM" + struct.pack(">I", 3)
OPEN_RETURN_PATH = b"\x08\x00\x01\x00\x00"
RECV_BITMAP = b"\x08\x00\x0a\x00\x0e\x0dmach-virt.ram"
PING = b"\x08\x00\x02\x00\x04\x00\x00\x00\x01"
POSTCOPY_ADVISE = b"\x08\x00\x03\x00\x10" + struct.pack(">QQ", 4096, 4096)
SWITCHOVER_START = b"\x08\x00\x0b\x00\x00"

FLAG_ZERO, FLAG_MEM_SIZE, FLAG_PAGE, FLAG_EOS, FLAG_CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
FLAG_XBZRLE, FLAG_COMPRESS, FLAG_MULTIFD_FLUSH = 0x40, 0x100, 0x200


def be32(value: int) -> bytes:
    return struct.pack(">I", value)


def be64(value: int) -> bytes:
    return struct.pack(">Q", value)


def counted(name: bytes) -> bytes:
    return bytes([len(name)]) + name


def subsection(name: bytes, version: int, payload: bytes) -> bytes:
    return b"\x05" + counted(name) + be32(version) + payload


def configuration(
    machine: bytes = b"virt-10.0",
    page_bits: int | None = 12,
    capabilities: Sequence[bytes] = (),
    uuid: bytes | None = None,
) -> bytes:
    out = b"\x07" + be32(len(machine)) + machine
    if page_bits is not None:
        out += subsection(b"configuration/target-page-bits", 1, be32(page_bits))
    if capabilities:
        payload = be32(len(capabilities)) + b"".join(counted(name) for name in capabilities)
        out += subsection(b"configuration/capabilities", 1, payload)
    if uuid is not None:
        out += subsection(b"configuration/uuid", 1, uuid)
    return out


def footer(section_id: int) -> bytes:
    return b"\x7e" + be32(section_id)


def start(section_id: int, payload: bytes, idstr: bytes = b"ram", version: int = 4, instance: int = 0) -> bytes:
    header = b"\x01" + be32(section_id) + counted(idstr) + be32(instance) + be32(version)
    return header + payload + footer(section_id)


def part(section_id: int, payload: bytes) -> bytes:
    return b"\x02" + be32(section_id) + payload + footer(section_id)


def end(section_id: int, payload: bytes) -> bytes:
    return b"\x03" + be32(section_id) + payload + footer(section_id)


EOS = be64(FLAG_EOS)


def mem_size(blocks: Mapping[bytes, int]) -> bytes:
    records = b"".join(counted(name) + be64(size) for name, size in blocks.items())
    return be64(sum(blocks.values()) | FLAG_MEM_SIZE) + records


def page(offset: int, data: bytes = b"\xa5" * PAGE, block: bytes | None = None) -> bytes:
    if block is None:
        return be64(offset | FLAG_PAGE | FLAG_CONTINUE) + data
    return be64(offset | FLAG_PAGE) + counted(block) + data


def zero_page(offset: int, block: bytes | None = None) -> bytes:
    if block is None:
        return be64(offset | FLAG_ZERO | FLAG_CONTINUE) + b"\0"
    return be64(offset | FLAG_ZERO) + counted(block) + b"\0"


def ram(pages: int = 4, section_id: int = 2) -> bytes:
    """START, one PART and END of a small RAM section."""
    setup = mem_size({b"mach-virt.ram": pages * PAGE}) + EOS
    body = page(0, block=b"mach-virt.ram") + zero_page(PAGE) + page(2 * PAGE) + zero_page(3 * PAGE, b"mach-virt.ram")
    return start(section_id, setup) + part(section_id, body + EOS) + end(section_id, page(0) + EOS)


@dataclass
class Device:
    """A FULL section with the vmdesc entry that describes it."""

    name: bytes
    payload: bytes
    version: int = 1
    instance: int = 0
    fields: list[dict[str, Any]] = field(default_factory=list)
    subsections: list[dict[str, Any]] = field(default_factory=list)
    old_style: bool = False

    def wire(self, section_id: int) -> bytes:
        header = b"\x04" + be32(section_id) + counted(self.name) + be32(self.instance) + be32(self.version)
        return header + self.payload + footer(section_id)

    def described(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": self.name.decode(), "instance_id": self.instance}
        if self.old_style:
            data = {"name": "data", "size": len(self.payload), "type": "buffer"}
            return entry | {"size": len(self.payload), "fields": [data]}
        fields = self.fields or [{"name": "state", "type": "buffer", "size": len(self.payload)}]
        entry |= {"vmsd_name": self.name.decode(), "version": self.version, "fields": fields}
        return entry | ({"subsections": self.subsections} if self.subsections else {})


# (name, array_len, size) of vmstate_arm_cpu's main fields; None is one element.
_CPU_BEFORE = [
    ("env.regs", 16, 4), ("env.xregs", 32, 8), ("env.pc", None, 8), ("cpsr", None, 4), ("env.spsr", None, 4),
    ("env.banked_spsr", 8, 8), ("env.banked_r13", 8, 4), ("env.banked_r14", 8, 4), ("env.usr_regs", 5, 4),
    ("env.fiq_regs", 5, 4), ("env.elr_el", 4, 8), ("env.sp_el", 4, 8),
]  # fmt: skip
_CPU_AFTER = [
    ("env.exclusive_addr", None, 8), ("env.exclusive_val", None, 8), ("env.exclusive_high", None, 8),
    ("unused", None, 8), ("env.exception.syndrome", None, 4), ("env.exception.fsr", None, 4),
    ("env.exception.vaddress", None, 8), ("gt_timer[GTIMER_PHYS]", None, 8), ("gt_timer[GTIMER_VIRT]", None, 8),
    ("power_state", None, 1),
]  # fmt: skip


def _described(name: str, array_len: int | None, size: int) -> dict[str, Any]:
    return {"name": name} | ({"array_len": array_len} if array_len is not None else {}) | {"type": "x", "size": size}


def cpu(registers: Mapping[int, int], instance: int = 0, subsections: bool = True, fill: int = 0x5A) -> Device:
    """An arm ``cpu`` section, version 22, with ``cpu/irq-line-state`` behind it."""
    n = len(registers)
    before = sum(size * (count or 1) for _, count, size in _CPU_BEFORE)
    after = sum(size * (count or 1) for _, count, size in _CPU_AFTER)
    payload = bytes([fill]) * before + struct.pack(">i", n)
    payload += struct.pack(f">{n}Q", *registers) + struct.pack(f">{n}Q", *registers.values()) + bytes([fill]) * after
    count = None if n == 1 else n
    arrays = [_described(f"cpreg_vmstate_{what}", count, 8) for what in ("indexes", "values")] if n else []
    fields = [_described(*f) for f in _CPU_BEFORE] + [_described("cpreg_vmstate_array_len", None, 4)]
    fields += arrays + [_described(*f) for f in _CPU_AFTER]
    subs = []
    if subsections:
        payload += subsection(b"cpu/irq-line-state", 1, be32(0))
        irq = {"name": "env.irq_line_state", "type": "uint32", "size": 4}
        subs = [{"vmsd_name": "cpu/irq-line-state", "version": 1, "fields": [irq]}]
    return Device(b"cpu", payload, 22, instance, fields, subs)


def vmdesc(devices: Sequence[Device], page_size: int = PAGE) -> bytes:
    data = json.dumps({"page_size": page_size, "devices": [device.described() for device in devices]}).encode()
    return b"\x06" + be32(len(data)) + data


def tail(devices: Sequence[Device], first_id: int = 3, page_size: int = PAGE) -> bytes:
    sections = b"".join(device.wire(first_id + i) for i, device in enumerate(devices))
    return sections + b"\x00" + vmdesc(devices, page_size)


def package(
    devices: Sequence[Device], first_id: int = 3, *, loaded_ping: bool = True, memory_follows: bool = True
) -> bytes:
    """The content of a postcopy package: LISTEN, the devices, PING 3 if memory follows, since 10.2 PING 0x42, RUN."""
    sections = b"".join(device.wire(first_id + i) for i, device in enumerate(devices))
    pings = (3,) * memory_follows + (0x42,) * loaded_ping
    return (
        b"\x08\x00\x04\x00\x00"
        + sections
        + b"".join(b"\x08\x00\x02\x00\x04" + be32(value) for value in pings)
        + b"\x08\x00\x05\x00\x00"
    )


def packaged(content: bytes) -> bytes:
    return b"\x08\x00\x07\x00\x04" + be32(len(content)) + content


def multifd_init(uuid: bytes = bytes(16), number: int = 0) -> bytes:
    """MultiFDInit_t: what a multifd channel says first."""
    return b"\x11\x22\x33\x44" + be32(1) + uuid + bytes([number]) + bytes(39)


MULTIFD_SYNC, MULTIFD_ZLIB, MULTIFD_ZSTD, MULTIFD_QPL, MULTIFD_DEVICE_STATE = 1, 1 << 1, 2 << 1, 4 << 1, 1 << 6


def multifd_packet(
    normal: int = 1,
    *,
    flags: int = 0,
    size: int | None = None,
    zero: int = 0,
    pages_alloc: int = 128,
    offsets: Sequence[int] | None = None,
    page_size: int = PAGE,
) -> bytes:
    """MultiFDPacket_t without its pages; ``size`` is what QEMU would say unless it is given."""
    counts = struct.pack(">III", pages_alloc, normal, normal * page_size if size is None else size)
    room = (512 << 10) // page_size
    pages = [n * page_size for n in range(normal + zero)] if offsets is None else list(offsets)
    pages = (pages + [0] * room)[:room]
    head = b"\x11\x22\x33\x44" + be32(1) + be32(flags) + counts + be64(7) + be32(zero) + bytes(28)
    return head + b"mach-virt.ram".ljust(256, b"\0") + struct.pack(f">{room}Q", *pages)


def multifd_device_state(idstr: bytes, size: int) -> bytes:
    """MultiFDPacketDeviceState_t without its data."""
    head = b"\x11\x22\x33\x44" + be32(1) + be32(MULTIFD_DEVICE_STATE)
    return head + idstr.ljust(256, b"\0") + be32(0) + be32(size)


SOME_REGISTERS = {0x603000000013C000: 0x410FD0C1, 0x603000000013C103: 0, 0x603000000013DF1A: 1 << 33}


def devices(vcpus: int = 1, registers: Mapping[int, int] | None = None) -> list[Device]:
    """A small machine: an interrupt controller, vCPUs, an old-style handler, a device with a subsection."""
    out = [Device(b"arm_gicv3", bytes(range(200)))]
    for i in range(vcpus):
        common = [{"name": "halted", "type": "uint32", "size": 4}, {"name": "request", "type": "uint32", "size": 4}]
        out.append(Device(b"cpu_common", be32(0) + be32(2), 1, i, common))
        out.append(cpu(SOME_REGISTERS if registers is None else registers, i))
    out.append(Device(b"slirp", b"old style", 4, old_style=True))
    return out


def stream(
    prologue: bytes = MAGIC + configuration() + OPEN_RETURN_PATH + PING,
    memory: bytes | None = None,
    parts: Sequence[Device] | None = None,
) -> bytes:
    """A whole precopy stream with a return path."""
    return prologue + (ram() if memory is None else memory) + tail(devices() if parts is None else parts)
