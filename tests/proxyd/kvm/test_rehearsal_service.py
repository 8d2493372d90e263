"""The service over a real socket, on a kernel that judges values as KVM does."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from formats.arm64.register_id import id_of
from proxyd.kvm import abi
from proxyd.kvm.rehearsal_service import answer, serve
from proxyd.rehearsal_protocol import (
    Failed,
    Message,
    MessageReader,
    Perform,
    Performed,
    Prepare,
    Prepared,
    ProtocolError,
    Vcpu,
    encode,
    perform_request,
)
from proxyd.rewrite.plan import VcpuRegisters
from tests.proxyd.kvm.fake_kernel import ALL, FakeKernel, real_host

HOST = real_host("7.3", "neoverse-v1")
GUEST = [VcpuRegisters(number, HOST.registers) for number in range(2)]


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel(HOST)


@contextmanager
def connected(kernel: FakeKernel) -> Iterator[socket.socket]:
    """The daemon's end of a connection to a service, which ends with the block."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        service = Thread(target=serve, args=(theirs.fileno(), kernel, kernel, "7.3.4"))
        service.start()
        try:
            yield ours
        finally:
            ours.close()
            service.join(30)
        assert not service.is_alive()


def asked(connection: socket.socket, message: Message, pieces: int = 1) -> Message:
    wire = encode(message)
    step = -(-len(wire) // pieces)
    for start in range(0, len(wire), step):
        connection.sendall(wire[start : start + step])
    reader = MessageReader()
    while True:
        for found in reader.feed(connection.recv(1 << 16)):
            return found


def test_a_migration(kernel: FakeKernel) -> None:
    with connected(kernel) as connection:
        prepared = asked(connection, Prepare(("psci", "pmu", "sve", "pauth")))
        assert isinstance(prepared, Prepared)
        assert (prepared.kernel, prepared.features) == ("7.3.4", ("psci", "pmu", "sve", "pauth"))
        assert set(prepared.registers) == set(HOST.registers)
        assert kernel.files == {}, "no VM between questions"
        performed = asked(connection, perform_request(GUEST, GUEST), pieces=7)
        assert isinstance(performed, Performed)
        assert performed.rehearsal.faithful
        assert (performed.rehearsal.vcpus, performed.rehearsal.kernel) == (2, "7.3.4")
    assert kernel.files == {}


def test_without_features_those_of_cpu_host(kernel: FakeKernel) -> None:
    prepared = answer(Prepare(), kernel, kernel, "7.3.4")
    assert isinstance(prepared, Prepared)
    assert prepared.features == ("psci", "pmu", "sve", "pauth")


def test_features_that_the_host_has_not_are_left_out() -> None:
    kernel = FakeKernel(HOST, capabilities=ALL | {170: 0})
    prepared = answer(Prepare(("pmu", "sve")), kernel, kernel, "7.3.4")
    assert isinstance(prepared, Prepared)
    assert prepared.features == ("psci", "pmu")
    assert id_of("ZCR_EL1") not in prepared.registers


def test_a_refusal_is_an_answer(kernel: FakeKernel) -> None:
    psci = id_of("FW_PSCI_VERSION")
    tampered = [VcpuRegisters(0, HOST.registers.edited(put={psci: 0x10009}))]
    performed = answer(perform_request(tampered, tampered), kernel, kernel, "7.3.4")
    assert isinstance(performed, Performed)
    assert [finding.register for finding in performed.rehearsal.failures()] == [psci]


def test_what_the_guest_had_counts(kernel: FakeKernel) -> None:
    """A register that comes back as the guest had it is not changed: this kernel keeps N at its own."""
    pmcr = id_of("PMCR_EL0")
    own = HOST.registers[pmcr]
    more = Perform((Vcpu(0, dict(HOST.registers) | {pmcr: own | 0x1F << 11}, {pmcr: own}),))
    performed = answer(more, kernel, kernel, "7.3.4")
    assert isinstance(performed, Performed)
    assert performed.rehearsal.faithful


def test_kvm_that_says_no(kernel: FakeKernel) -> None:
    kernel.refuse[abi.KVM_CREATE_VM] = errno.ENOMEM
    with connected(kernel) as connection:
        assert asked(connection, Prepare()) == Failed("KVM_CREATE_VM: cannot allocate memory (ENOMEM)")
        kernel.refuse.clear()
        assert isinstance(asked(connection, Prepare()), Prepared), "the next question is answered"


def test_another_version(kernel: FakeKernel) -> None:
    failed = answer(Prepare(version=2), kernel, kernel, "7.3.4")
    assert failed == Failed("version 1 of the rehearsal protocol expected, found 2")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Failed("x"), "a question expected, found failed"),
        (Prepare(("wings",)), "found 'wings'"),
        (Perform((Vcpu(0, {-1: 0}),)), "64 bits expected"),
    ],
)
def test_what_is_no_question_is_said_and_ends_the_connection(kernel: FakeKernel, message: Message, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        answer(message, kernel, kernel, "7.3.4")
    with connected(kernel) as connection:
        failed = asked(connection, message)
        assert isinstance(failed, Failed)
        assert text in failed.reason


def test_a_connection_that_says_nothing(kernel: FakeKernel) -> None:
    with connected(kernel):
        pass
    assert kernel.calls == []
