"""What a command looks at: the registers of a stream's vCPUs, or of a host description.

The file says itself what it is: a host description is JSON, a stream begins with ``QEVM``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from formats.arm64.register_id import UnknownRegister, id_of
from formats.savevm import QEMU_VM_FILE_MAGIC
from proxyd.cli.exit_codes import InputError, UsageError
from proxyd.cli.stream_facts import registers_in
from proxyd.cli.stream_file import StreamFile, open_stream
from proxyd.cli.terminal import plain
from proxyd.rewrite.host import HostDescription, HostError
from proxyd.rewrite.plan import Destination, VcpuRegisters
from proxyd.rewrite.profile import Profile, ProfileError

# A description has some hundred registers of 50 bytes each. What is longer is something else.
MAX_DESCRIPTION_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Subject:
    """Registers, and where they are from. ``host`` is set for a host description, ``machine`` for a stream."""

    name: str
    vcpus: tuple[VcpuRegisters, ...]
    machine: str | None = None
    host: HostDescription | None = None

    @property
    def kind(self) -> str:
        """``stream`` or ``host``."""
        return "stream" if self.host is None else "host"

    def described(self) -> str:
        """One line for people: what it is."""
        counts = sorted({len(vcpu.registers) for vcpu in self.vcpus})
        registers = f"{' or '.join(map(str, counts))} registers"
        if self.host is not None:
            kernel = "" if self.host.kernel is None else f", Linux {self.host.kernel}"
            qemu = "" if self.host.qemu is None else f", QEMU {self.host.qemu}"
            return plain(f"host {self.host.name}{kernel}{qemu}, {registers}")
        vcpus = "1 vCPU" if len(self.vcpus) == 1 else f"{len(self.vcpus)} vCPUs"
        return plain(f"stream, machine {self.machine}, {vcpus} of {registers}")


def load_subject(path: str) -> Subject:
    """Read a stream or a host description, packed or not, ``-`` for standard input.

    Raises :class:`OSError` if it cannot be opened, :class:`InputError` if it is neither.
    """
    with open_stream(path) as file:
        if not file.first().lstrip().startswith(b"{"):
            machine, vcpus = registers_in(file)
            return Subject(file.name, vcpus, machine=machine)
        host = _parse_host(_whole(file), file.name)
    return Subject(file.name, (VcpuRegisters(0, host.registers),), host=host)


def load_host(path: str) -> HostDescription:
    """Read a host description, packed or not. Raises :class:`OSError` and :class:`InputError`."""
    with open_stream(path) as file:
        if file.image is not None or file.first().startswith(QEMU_VM_FILE_MAGIC):
            raise InputError(
                f"{plain(path)}: a host description expected, found a migration stream "
                f"('proxyd probe --from-stream {plain(path)} -o HOST.json' makes one of it)"
            )
        return _parse_host(_whole(file), path)


def load_destination(host: str | None, profile: str | None) -> Destination:
    """What ``--destination`` and ``--profile`` name.

    Raises :class:`OSError` and :class:`InputError`, and :class:`UsageError` if neither is given.
    """
    if host is None and profile is None:
        raise UsageError("--destination HOST.json or --profile FILE expected, found neither")
    try:
        read = None if profile is None else Profile.parse(Path(profile).read_bytes(), profile)
    except ProfileError as error:
        raise InputError(str(error)) from error
    return Destination(host=None if host is None else load_host(host), profile=read)


def register_ids(names: Iterable[str]) -> frozenset[int]:
    """Registers given on the command line, by name or id. Raises :class:`UsageError`."""
    try:
        return frozenset(id_of(name) for name in names)
    except UnknownRegister as error:
        raise UsageError(str(error)) from error


def _parse_host(data: bytes, name: str) -> HostDescription:
    try:
        return HostDescription.parse(data, name)
    except HostError as error:
        raise InputError(plain(str(error))) from error


def _whole(file: StreamFile) -> bytes:
    data = bytearray()
    for chunk in file.chunks():
        data += chunk
        if len(data) > MAX_DESCRIPTION_BYTES:
            raise InputError(
                f"{plain(file.name)}: a host description of at most {MAX_DESCRIPTION_BYTES} bytes expected, found more"
            )
    return bytes(data)
