"""Rewriting a device tail: what changes, what does not, and what the self-check would catch."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from formats.arm64.register_id import id_of
from formats.errors import SchemaMismatch
from formats.events import DeviceTail
from formats.parser import StreamParser
from proxyd.rewrite import tail as tail_module
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination, Outcome
from proxyd.rewrite.policy import RewritePolicy, StreamLimits
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.tail import SelfCheckFailed, registers_of, rewrite_tail
from tests import builders as b

TCR2 = id_of("TCR2_EL1")
LIMITS = StreamLimits()
REMOVE = '[[rule]]\nkind="remove"\nregister="TCR2_EL1"\nreason="r"\n'


def tail_of(parts: list[b.Device]) -> DeviceTail:
    (tail,) = [event for event in StreamParser().feed(b.stream(parts=parts)) if isinstance(event, DeviceTail)]
    return tail


def policy(profile: str | None = REMOVE) -> RewritePolicy:
    destination = None if profile is None else Destination(profile=Profile.parse(profile.encode(), "p.toml"))
    return RewritePolicy(destination, Knowledge())


def whole(result: tail_module.RewrittenTail) -> bytes:
    return bytes(result.devices) + bytes(result.vmdesc)


@pytest.mark.parametrize("vcpus", [1, 2, 5])
def test_a_removed_register_is_gone_everywhere_and_nothing_else_moved(vcpus: int) -> None:
    result = rewrite_tail(tail_of(b.devices(vcpus)), policy(), LIMITS)
    without = {id_: value for id_, value in b.SOME_REGISTERS.items() if id_ != TCR2}
    expected = b.devices(vcpus, without)
    sections = b"".join(device.wire(3 + i) for i, device in enumerate(expected))
    assert bytes(result.devices) == sections + b"\x00"
    # The vmdesc is the same text with other lengths.
    assert json.loads(bytes(result.vmdesc)[5:]) == json.loads(b.vmdesc(expected)[5:])
    assert int.from_bytes(result.vmdesc[1:5], "big") == len(result.vmdesc) - 5
    assert result.plan is not None
    assert result.plan.outcome is Outcome.LOADS_REWRITTEN
    # And it parses as a stream again.
    again = [*StreamParser().feed(b.MAGIC + b.configuration() + b.ram() + whole(result))][-1]
    assert isinstance(again, DeviceTail)
    assert [dict(vcpu.registers) for vcpu in registers_of(again, LIMITS)] == [without] * vcpus


def test_with_nothing_to_rewrite_the_output_is_the_input() -> None:
    for profile in (None, REMOVE.replace("TCR2_EL1", "PIR_EL1")):
        tail = tail_of(b.devices())
        result = rewrite_tail(tail, policy(profile), LIMITS)
        assert whole(result) == bytes(tail.raw)
        assert (result.plan is None) == (profile is None)
        assert bytes(result.devices)[-1:] == b"\x00"


def test_a_tail_without_arm_vcpus_passes() -> None:
    tail = tail_of([b.Device(b"timer", b"x")])
    result = rewrite_tail(tail, policy(), LIMITS)
    assert (whole(result), result.plan) == (bytes(tail.raw), None)


def test_a_vcpu_that_comes_twice_is_refused() -> None:
    parts = b.devices(2)
    parts[4] = b.cpu(b.SOME_REGISTERS, instance=0)
    with pytest.raises(SchemaMismatch, match=r"cpu/0: one section expected, found 2$"):
        rewrite_tail(tail_of(parts), policy(), LIMITS)


def test_a_refusal_changes_nothing() -> None:
    tail = tail_of(b.devices())
    result = rewrite_tail(tail, policy(REMOVE + 'verdict="lossy"'), LIMITS)
    assert result.plan is not None
    assert result.plan.outcome is Outcome.REFUSED
    assert whole(result) == bytes(tail.raw)


def test_a_vmdesc_that_cannot_be_corrected_is_refused() -> None:
    """One register: QEMU writes no array_len for an array of one, and there is none to correct."""
    tail = tail_of(b.devices(registers={TCR2: 0}))
    with pytest.raises(
        SchemaMismatch, match=r"vmdesc: cpreg array lengths \[1, 1\] expected in this order, found \[\]$"
    ):
        rewrite_tail(tail, policy(), LIMITS)


def test_the_self_check_catches_what_the_plan_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tail_module._splice

    def broken(tail: DeviceTail, rewritten: dict[int, tail_module.ArmCpu]) -> bytes:
        data = original(tail, rewritten)
        return data[:-10] + bytes([data[-10] ^ 1]) + data[-9:]  # inside the payload of slirp

    monkeypatch.setattr(tail_module, "_splice", broken)
    with pytest.raises(SelfCheckFailed, match=r"^section slirp/0 is not what the plan says$"):
        rewrite_tail(tail_of(b.devices()), policy(), LIMITS)

    def wrong_registers(tail: DeviceTail, rewritten: dict[int, tail_module.ArmCpu]) -> bytes:
        return original(tail, {index: replace(cpu, after=b"?" * len(cpu.after)) for index, cpu in rewritten.items()})

    monkeypatch.setattr(tail_module, "_splice", wrong_registers)
    with pytest.raises(SelfCheckFailed, match=r"^section cpu/0 is not what the plan says$"):
        rewrite_tail(tail_of(b.devices()), policy(), LIMITS)

    monkeypatch.setattr(tail_module, "_splice", lambda tail, rewritten: original(tail, rewritten)[:-1])
    with pytest.raises(SelfCheckFailed, match=r"^the rewritten device state does not parse: "):
        rewrite_tail(tail_of(b.devices()), policy(), LIMITS)

    def one_section_less(tail: DeviceTail, rewritten: dict[int, tail_module.ArmCpu]) -> bytes:
        return original(tail, rewritten)[len(b.devices()[0].wire(3)) :]

    monkeypatch.setattr(tail_module, "_splice", one_section_less)
    monkeypatch.setattr(tail_module, "_correct_vmdesc", lambda *_: b.vmdesc(tail_devices()[1:]))
    with pytest.raises(SelfCheckFailed, match=r"^4 sections expected, found 3$"):
        rewrite_tail(tail_of(b.devices()), policy(), LIMITS)


def tail_devices() -> list[b.Device]:
    return b.devices(registers={id_: value for id_, value in b.SOME_REGISTERS.items() if id_ != TCR2})
