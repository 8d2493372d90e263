"""A stand-in for the destination's QEMU: loads a stream by QEMU 10.0's rules, and fails with QEMU's words.

What it does as QEMU does: it walks the stream as it comes (``migration/savevm.c: qemu_loadvm_state``), compares the
length of each vCPU's register list with its own, merges the two sorted lists (``target/arm/machine.c: cpu_post_load``),
writes every register of its own to KVM (``target/arm/kvm.c: write_list_to_kvmstate``), and tells the source by the
return path how it went. What it does not: it keeps no memory, looks into no other device, and runs no guest.

A device section has no length on the wire. QEMU knows the lengths from its own devices; the stand-in has the devices
of the machine that the stream was recorded from, which is what a destination must have.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from proxyd.demo.register_file import Host, RegisterFile

PROGRAM: Final = "qemu-system-aarch64"

_INVALID: Final = "load of migration failed: Invalid argument"

_PAGE: Final = 4096

_EOF, _START, _PART, _END, _FULL, _SUBSECTION, _VMDESCRIPTION, _CONFIGURATION, _COMMAND = range(9)
_FOOTER: Final = 0x7E
_CMD_OPEN_RETURN_PATH, _CMD_PING = 1, 2
_MSG_SHUT, _MSG_PONG = 1, 2
_RAM_ZERO, _RAM_MEM_SIZE, _RAM_PAGE, _RAM_EOS, _RAM_CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20

# How the description at a stream's end begins, since QEMU 8.2.
_VMDESC_BEGINS: Final = b'{"configuration": {'

# vmstate_arm_cpu: what lies before the list's length and between the values and the subsections.
_CPU_BEFORE: Final = 568
_CPU_AFTER: Final = 65
_CPU_SUBSECTIONS: Final = {b"cpu/vfp": 576, b"cpu/sve": 4128, b"cpu/irq-line-state": 4, b"cpu/serror": 10}


@dataclass(frozen=True, slots=True)
class Machine:
    """Which device sections the machine has and how long they are; a vCPU's length is on the wire."""

    lengths: Mapping[tuple[bytes, int], int]

    @classmethod
    def of(cls, recording: bytes) -> Machine:
        """The machine that a recorded stream came from, by the description at the stream's end."""
        devices = json.loads(recording[recording.rindex(_VMDESC_BEGINS) :])["devices"]
        return cls({(one["name"].encode(), one["instance_id"]): one.get("size", _described(one)) for one in devices})


def _described(vmsd: Mapping[str, Any]) -> int:
    fields: int = sum(one["size"] * one.get("array_len", 1) for one in vmsd["fields"])
    return fields + sum(6 + len(sub["vmsd_name"]) + _described(sub) for sub in vmsd.get("subsections", ()))


class LoadFailed(Exception):
    """QEMU gives up. ``says`` are the lines it prints; ``tells`` is whether it lives to send SHUT(1)."""

    def __init__(self, *says: str, tells: bool = True) -> None:
        super().__init__(*says)
        self.says = says
        self.tells = tells


@dataclass(slots=True)
class Result:
    """How the destination ended: QEMU's lines on standard error, and each vCPU's registers if it loaded."""

    stderr: tuple[str, ...] = ()
    vcpus: list[RegisterFile] = field(default_factory=list)

    @property
    def loaded(self) -> bool:
        """Whether the guest would run now."""
        return not self.stderr


class _Wire:
    """The incoming channel, read number by number."""

    def __init__(self, channel: trio.abc.ReceiveStream) -> None:
        self._channel = channel
        self._buffer = bytearray()

    async def peek(self) -> int:
        """The next byte, not taken."""
        await self._fill(1)
        return self._buffer[0]

    async def read(self, count: int) -> bytes:
        """Take ``count`` bytes."""
        await self._fill(count)
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def u8(self) -> int:
        """Take a byte."""
        return (await self.read(1))[0]

    async def be16(self) -> int:
        """Take a big-endian u16."""
        return int.from_bytes(await self.read(2), "big")

    async def be32(self) -> int:
        """Take a big-endian u32."""
        return int.from_bytes(await self.read(4), "big")

    async def be64(self) -> int:
        """Take a big-endian u64."""
        return int.from_bytes(await self.read(8), "big")

    async def string(self) -> bytes:
        """Take a counted string."""
        return await self.read(await self.u8())

    async def _fill(self, count: int) -> None:
        while len(self._buffer) < count:
            try:
                chunk = await self._channel.receive_some()
            except trio.BrokenResourceError:
                chunk = b""
            if not chunk:
                raise LoadFailed("load of migration failed: Input/output error")
            self._buffer += chunk


class Destination:
    """One waiting QEMU: ``-incoming tcp:``."""

    def __init__(self, machine: Machine, host: Host) -> None:
        self.machine = machine
        self.host = host
        self._vcpus: list[RegisterFile] = []
        self._return_path: trio.abc.SendStream | None = None

    async def load(self, channel: trio.abc.Stream) -> Result:
        """Load one stream, answer on the return path, and close the channel as QEMU does when it is done or exits."""
        async with channel:
            try:
                await self._stream(_Wire(channel), channel)
            except LoadFailed as error:
                if error.tells:
                    await self._answer(_MSG_SHUT, 1)
                return Result(tuple(f"{PROGRAM}: {line}" for line in error.says))
            await self._answer(_MSG_SHUT, 0)
        return Result(vcpus=self._vcpus)

    async def _answer(self, message: int, value: int) -> None:
        if self._return_path is not None:
            # If the source has gone, QEMU does not mind either.
            with contextlib.suppress(trio.BrokenResourceError):
                await self._return_path.send_all(struct.pack(">HHI", message, 4, value))

    async def _stream(self, wire: _Wire, channel: trio.abc.SendStream) -> None:
        """qemu_loadvm_state."""
        if await wire.read(8) != b"QEVM\0\0\0\3":
            raise LoadFailed("Not a migration stream", _INVALID)
        while (kind := await wire.u8()) != _EOF:
            if kind == _CONFIGURATION:
                await self._configuration(wire)
            elif kind == _COMMAND:
                await self._command(wire, channel)
            elif kind in {_START, _PART, _END, _FULL}:
                await self._section(wire, kind)
            else:
                raise LoadFailed(f"Unknown savevm section type {kind}", _INVALID)
        if await wire.u8() == _VMDESCRIPTION:
            await wire.read(await wire.be32())

    async def _configuration(self, wire: _Wire) -> None:
        await wire.read(await wire.be32())
        while await wire.peek() == _SUBSECTION:
            await wire.u8()
            name = await wire.string()
            await wire.be32()
            if name != b"configuration/target-page-bits":
                raise LoadFailed(_INVALID)
            await wire.be32()

    async def _command(self, wire: _Wire, channel: trio.abc.SendStream) -> None:
        command = await wire.be16()
        data = await wire.read(await wire.be16())
        if command == _CMD_OPEN_RETURN_PATH:
            self._return_path = channel
        elif command == _CMD_PING:
            await self._answer(_MSG_PONG, int.from_bytes(data, "big"))

    async def _section(self, wire: _Wire, kind: int) -> None:
        section_id = await wire.be32()
        name, instance = b"ram", 0
        if kind in {_START, _FULL}:
            name = await wire.string()
            instance = await wire.be32()
            await wire.be32()
        if name == b"ram":
            await self._memory(wire)
        elif name == b"cpu":
            await self._cpu(wire, instance)
        elif (name, instance) in self.machine.lengths:
            await wire.read(self.machine.lengths[name, instance])
        else:
            raise LoadFailed(f"Unknown savevm section or instance '{name.decode()}' {instance}.", _INVALID)
        if (await wire.u8(), await wire.be32()) != (_FOOTER, section_id):
            raise LoadFailed(f"Missing section footer for {name.decode()}", _INVALID)

    async def _memory(self, wire: _Wire) -> None:
        """ram_load_precopy."""
        while not (flags := (record := await wire.be64()) & (_PAGE - 1)) & _RAM_EOS:
            if flags & _RAM_MEM_SIZE:
                left = record - flags
                while left > 0:
                    await wire.string()
                    left -= await wire.be64()
            elif flags & (_RAM_PAGE | _RAM_ZERO):
                if not flags & _RAM_CONTINUE:
                    await wire.string()
                await wire.read(_PAGE if flags & _RAM_PAGE else 1)
            else:
                raise LoadFailed(f"Unknown combination of migration flags: {flags:#x}", _INVALID)

    async def _cpu(self, wire: _Wire, instance: int) -> None:
        """vmstate_arm_cpu and cpu_post_load."""
        own = self.host.registers
        failed = f"error while loading state for instance {instance:#x} of device 'cpu'"
        await wire.read(_CPU_BEFORE)
        count = await wire.be32()
        if count > len(own):
            raise LoadFailed(
                f"Invalid value {count} expecting positive value <= {len(own)}",
                "Failed to load cpu:cpreg_vmstate_array_len",
                failed,
                _INVALID,
            )
        arrays = struct.unpack(f">{2 * count}Q", await wire.read(16 * count))
        await wire.read(_CPU_AFTER)
        while await wire.peek() == _SUBSECTION:
            await wire.u8()
            name = await wire.string()
            await wire.be32()
            await wire.read(_CPU_SUBSECTIONS.get(name, 0))
        merged = _merge(arrays[:count], arrays[count:], own)
        if merged is None:
            raise LoadFailed(failed, "load of migration failed: Operation not permitted")
        vcpu = RegisterFile(self.host)
        refused = [register for register in sorted(own) if vcpu.set_one_reg(register, merged[register]) is not None]
        if refused:
            # write_list_to_kvmstate goes on after an error and does not say which register it was; QEMU then tries
            # again (cpu_synchronize_all_post_init) and exits there, without a word on the return path.
            raise LoadFailed(failed, "Failed to put registers after init: Invalid argument", tells=False)
        self._vcpus.append(vcpu)


def _merge(ids: tuple[int, ...], values: tuple[int, ...], own: Mapping[int, int]) -> dict[int, int] | None:
    """cpu_post_load's walk along both sorted lists: None where the stream has a register that is not here.

    A register that only the destination has keeps its value. The walk ends with the shorter list, so what the stream
    has beyond the destination's last register is lost without a word.
    """
    merged = dict(own)
    here = sorted(own)
    mine = theirs = 0
    while mine < len(here) and theirs < len(ids):
        if here[mine] < ids[theirs]:
            mine += 1
        elif here[mine] > ids[theirs]:
            return None
        else:
            merged[here[mine]] = values[theirs]
            mine += 1
            theirs += 1
    return merged
