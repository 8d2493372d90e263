"""The rehearsal service: the one process that has a right on /dev/kvm, for one migration's questions.

It is started for one connection (inetd's way: systemd's ``Accept=yes``), answers what is asked on it, one question
after the other, and ends with it. Nothing is kept between connections, and between questions no VM is: one that waits
for an hour while memory is copied would hold the host's memory and count as a user of KVM.

It trusts its caller with nothing but time: registers are written to vCPUs that never run, of a VM without memory.
"""

from __future__ import annotations

import os
from typing import Final

from proxyd.kvm.counter import Clock
from proxyd.kvm.features import OF_CPU_HOST, in_order, parse_features
from proxyd.kvm.rehearsal import listed_by, rehearse
from proxyd.kvm.scratch import ScratchVm, can_have_mte
from proxyd.kvm.system import KvmError, System
from proxyd.rehearsal_protocol import (
    VERSION,
    Answer,
    Failed,
    Message,
    MessageReader,
    Perform,
    Performed,
    Prepare,
    Prepared,
    ProtocolError,
    encode,
    registers_in,
)

_CHUNK: Final = 1 << 18


def serve(connection: int, system: System, clock: Clock, kernel: str) -> None:
    """Answer on the socket with this file descriptor until the other end closes it.

    Raises :class:`OSError` when the connection breaks; what cannot be answered is said to the caller instead.
    """
    reader = MessageReader()
    while chunk := os.read(connection, _CHUNK):
        try:
            for message in reader.feed(chunk):
                _send(connection, answer(message, system, clock, kernel))
        except ProtocolError as error:
            _send(connection, Failed(str(error)))
            return


def answer(message: Message, system: System, clock: Clock, kernel: str) -> Answer:
    """The answer to one question. ``kernel``: as ``uname -r`` says."""
    try:
        match message:
            case Prepare():
                return _prepare(message, system, kernel)
            case Perform():
                return _perform(message, system, clock, kernel)
    except KvmError as error:
        return Failed(str(error))
    raise ProtocolError(f"a question expected, found {type(message).__name__.lower()}")


def _prepare(message: Prepare, system: System, kernel: str) -> Answer:
    if message.version != VERSION:
        return Failed(f"version {VERSION} of the rehearsal protocol expected, found {message.version}")
    try:
        wanted = OF_CPU_HOST if message.features is None else parse_features(",".join(message.features))
    except ValueError as error:
        raise ProtocolError(str(error)) from error
    with ScratchVm(system, mte=can_have_mte(system, wanted)) as vm:
        features = tuple(feature for feature in in_order(wanted) if not vm.lacks(feature))
        vcpu = vm.vcpu(features)
        registers = vcpu.values(sorted(listed_by(vcpu)))
    return Prepared(kernel, tuple(map(str, features)), registers)


def _perform(message: Perform, system: System, clock: Clock, kernel: str) -> Answer:
    sent, guests = registers_in(message)
    return Performed(rehearse(system, clock, sent, kernel=kernel, guests=guests))


def _send(connection: int, message: Answer) -> None:
    left = memoryview(encode(message))
    while left:
        left = left[os.write(connection, left) :]
