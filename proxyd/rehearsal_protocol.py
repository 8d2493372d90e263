"""What the daemon and a rehearsal service say to each other: messages and their framing. No I/O.

One connection is one migration, one service process. The daemon asks, the service answers each question once:

    Prepare  at connect time: is there KVM, and what does a vCPU with these features have?    -> Prepared or Failed
    Perform  in the held window: write these registers to scratch vCPUs, and read them back   -> Performed or Failed

A message is its length (4 bytes, big endian, the length of what follows) and a JSON object whose ``type`` names it.
Register ids and values are JSON numbers of up to 64 bits; ids as keys are the same numbers as strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from formats.arm64.cpreg_list import CpregList
from proxyd.rewrite.plan import VcpuRegisters
from proxyd.rewrite.rehearsal import Rehearsal

VERSION: Final = 1

# 512 vCPUs, KVM's default limit, with 300 registers of 45 bytes each are 7 MB.
MAX_MESSAGE_BYTES: Final = 64 << 20
_LENGTH_BYTES: Final = 4


class ProtocolError(Exception):
    """What came is not a message, or not one that fits. ``str()`` is one sentence."""


class Prepare(msgspec.Struct, frozen=True, tag="prepare", forbid_unknown_fields=True):
    """``features`` by name; None asks for those of QEMU's ``-cpu host``."""

    features: tuple[str, ...] | None = None
    version: int = VERSION


class Prepared(msgspec.Struct, frozen=True, tag="prepared", forbid_unknown_fields=True):
    """KVM can be asked. ``registers``: what QEMU would list of a fresh vCPU with the ``features`` that the host has."""

    kernel: str
    features: tuple[str, ...]
    registers: dict[int, int]


class Vcpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One vCPU's registers as they are to be loaded; ``was``: the guest's own values where those are others."""

    vcpu: int
    registers: dict[int, int]
    was: dict[int, int] = {}


class Perform(msgspec.Struct, frozen=True, tag="perform", forbid_unknown_fields=True):
    """All vCPUs of the guest, in the order of the stream."""

    vcpus: tuple[Vcpu, ...]


class Performed(msgspec.Struct, frozen=True, tag="performed", forbid_unknown_fields=True):
    """What KVM made of them."""

    rehearsal: Rehearsal


class Failed(msgspec.Struct, frozen=True, tag="failed", forbid_unknown_fields=True):
    """The question could not be answered; one sentence."""

    reason: str


Question = Prepare | Perform
Answer = Prepared | Performed | Failed
Message = Question | Answer

_DECODER: Final = msgspec.json.Decoder(Message)


def perform_request(sent: Sequence[VcpuRegisters], guests: Sequence[VcpuRegisters]) -> Perform:
    """The question for a rewritten guest. ``guests``: what came, vCPU by vCPU as in ``sent``."""
    return Perform(
        tuple(
            Vcpu(
                new.vcpu,
                dict(new.registers),
                {
                    register: value
                    for register, value in old.registers.items()
                    if new.registers.get(register, value) != value
                },
            )
            for new, old in zip(sent, guests, strict=True)
        )
    )


def registers_in(request: Perform) -> tuple[tuple[VcpuRegisters, ...], tuple[VcpuRegisters, ...]]:
    """What to write, and what the guest had. Raises :class:`ProtocolError` for numbers of more than 64 bits."""
    try:
        sent = tuple(VcpuRegisters(one.vcpu, CpregList(one.registers)) for one in request.vcpus)
        guests = tuple(VcpuRegisters(one.vcpu, CpregList({**one.registers, **one.was})) for one in request.vcpus)
    except ValueError as error:
        raise ProtocolError(str(error)) from error
    return sent, guests


def encode(message: Message) -> bytes:
    """A message with its length."""
    body = msgspec.json.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class MessageReader:
    """Cuts what comes into messages, however it is cut on the way."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def amid(self) -> bool:
        """Whether a message has begun and is not complete."""
        return bool(self._buffer)

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """The messages that are complete now. Raises :class:`ProtocolError`; the connection is then of no use."""
        self._buffer += chunk
        while len(self._buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if length > MAX_MESSAGE_BYTES:
                raise ProtocolError(f"a message of at most {MAX_MESSAGE_BYTES} bytes expected, found {length}")
            end = _LENGTH_BYTES + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH_BYTES:end])
            del self._buffer[:end]
            yield _decoded(body)


def _decoded(body: bytes) -> Message:
    try:
        message: Message = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a message of the rehearsal protocol expected: {error}") from error
    return message
