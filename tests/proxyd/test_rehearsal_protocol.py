"""The messages between the daemon and a rehearsal service, however they are cut."""

from __future__ import annotations

import json

import pytest

from formats.arm64.cpreg_list import CpregList
from proxyd.rehearsal_protocol import (
    MAX_MESSAGE_BYTES,
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
    registers_in,
)
from proxyd.rewrite.plan import VcpuRegisters
from proxyd.rewrite.rehearsal import Finding, FindingKind, Rehearsal

HIGHEST = (1 << 64) - 1
MESSAGES: list[Message] = [
    Prepare(("psci", "pmu")),
    Prepare(),
    Prepared("7.3.4", ("psci",), {0x6030000000140000: 0x10003}),
    Perform((Vcpu(0, {HIGHEST: HIGHEST, 1: 2}, {1: 3}), Vcpu(1, {}))),
    Performed(Rehearsal((Finding(0, HIGHEST, FindingKind.REFUSED, 1, 2, "EINVAL"),), ("psci",), "7.3.4", 1, 0.5)),
    Failed("no /dev/kvm"),
]


def test_on_the_wire() -> None:
    wire = encode(Prepare(("psci",)))
    assert wire[:4] == len(wire[4:]).to_bytes(4, "big")
    assert json.loads(wire[4:]) == {"type": "prepare", "features": ["psci"], "version": 1}
    assert json.loads(encode(Perform((Vcpu(2, {16: 1}),)))[4:]) == {
        "type": "perform",
        "vcpus": [{"vcpu": 2, "registers": {"16": 1}, "was": {}}],
    }


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1 << 20])
def test_all_messages_in_chunks_of_any_size(size: int) -> None:
    wire = b"".join(map(encode, MESSAGES))
    reader = MessageReader()
    found: list[Message] = []
    for start in range(0, len(wire), size):
        found += reader.feed(wire[start : start + size])
    assert found == MESSAGES
    assert not reader.amid


def test_half_a_message() -> None:
    reader = MessageReader()
    assert list(reader.feed(encode(Prepare())[:-1])) == []
    assert reader.amid


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"type":"dance"}', "Invalid value 'dance'"),
        (b'{"type":"failed"}', "missing required field `reason`"),
        (b'{"type":"prepare","more":1}', "unknown field `more`"),
        (b'{"type":"failed","reason":"\xff"}', "rehearsal protocol expected"),
        (b"[" * 5000, "rehearsal protocol expected"),
    ],
)
def test_what_is_no_message(body: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match="a message of the rehearsal protocol expected") as error:
        list(MessageReader().feed(len(body).to_bytes(4, "big") + body))
    assert text in str(error.value)


def test_a_length_beyond_the_bound_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(ProtocolError, match="at most 67108864 bytes expected, found 67108865"):
        list(MessageReader().feed((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big")))


def test_a_request_says_what_the_guest_had_where_that_is_something_else() -> None:
    came = [VcpuRegisters(0, CpregList({1: 10, 2: 20, 3: 30})), VcpuRegisters(1, CpregList({1: 10}))]
    sent = [VcpuRegisters(0, CpregList({1: 10, 2: 21, 4: 40})), VcpuRegisters(1, CpregList({1: 10}))]
    request = perform_request(sent, came)
    assert request == Perform((Vcpu(0, {1: 10, 2: 21, 4: 40}, {2: 20}), Vcpu(1, {1: 10})))
    written, guests = registers_in(request)
    assert list(written) == sent
    assert [dict(guest.registers) for guest in guests] == [{1: 10, 2: 20, 4: 40}, {1: 10}]


@pytest.mark.parametrize("registers", [{-1: 0}, {0: -1}])
def test_numbers_of_more_than_64_bits(registers: dict[int, int]) -> None:
    with pytest.raises(ProtocolError, match="64 bits expected"):
        registers_in(Perform((Vcpu(0, registers),)))
