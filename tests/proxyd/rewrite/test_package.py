"""Rewriting a postcopy package: what changes, what does not, and what the self-check would catch."""

from __future__ import annotations

from typing import Any

import pytest

from formats.arm64.register_id import id_of
from formats.errors import SchemaMismatch
from formats.schemas.arm_cpu import ArmCpu
from proxyd.rewrite import package as package_module
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.package import package_header, rewrite_package
from proxyd.rewrite.plan import Destination, Outcome
from proxyd.rewrite.policy import RewritePolicy, StreamLimits
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.tail import SelfCheckFailed
from tests import builders as b

TCR2 = id_of("TCR2_EL1")
LIMITS = StreamLimits()
REMOVE = '[[rule]]\nkind="remove"\nregister="TCR2_EL1"\nreason="r"\n'
WITHOUT = {id_: value for id_, value in b.SOME_REGISTERS.items() if id_ != TCR2}


def policy(profile: str | None = REMOVE) -> RewritePolicy:
    destination = None if profile is None else Destination(profile=Profile.parse(profile.encode(), "p.toml"))
    return RewritePolicy(destination, Knowledge())


@pytest.mark.parametrize("vcpus", [1, 2, 5])
def test_a_removed_register_is_gone_everywhere_and_the_length_is_right(vcpus: int) -> None:
    result = rewrite_package(b.package(b.devices(vcpus)), 0, policy(), LIMITS)
    expected = b.package(b.devices(vcpus, WITHOUT))
    assert result.header + result.package == b.packaged(expected)
    assert result.plan is not None
    assert result.plan.outcome is Outcome.LOADS_REWRITTEN
    assert result.sections == 2 + 2 * vcpus


@pytest.mark.parametrize("profile", [None, REMOVE.replace("TCR2_EL1", "PIR_EL1"), REMOVE + 'verdict="lossy"'])
def test_otherwise_it_stays_as_it_came(profile: str | None) -> None:
    wire = b.package(b.devices(), loaded_ping=False)
    result = rewrite_package(wire, 0, policy(profile), LIMITS)
    assert (result.header, result.package) == (package_header(len(wire)), wire)
    assert (result.plan is None) == (profile is None)
    if profile is not None and "lossy" in profile:
        assert result.plan is not None
        assert result.plan.outcome is Outcome.REFUSED


def test_a_package_without_arm_vcpus_passes() -> None:
    wire = b.package([b.Device(b"timer", b"x"), b.Device(b"cpu", b"of another machine", 12)])
    assert rewrite_package(wire, 0, policy(), LIMITS).plan is None


def test_a_vcpu_that_comes_twice_is_refused() -> None:
    wire = b.package([b.cpu(b.SOME_REGISTERS), b.cpu(b.SOME_REGISTERS)])
    with pytest.raises(SchemaMismatch, match=r"cpu/0: one section expected, found 2$"):
        rewrite_package(wire, 0, policy(), LIMITS)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda cpu: cpu.before, "the rewritten package cannot be read: "),
        (lambda cpu: cpu.with_cpregs(type(cpu.cpregs).from_arrays((1,), (1,))).built(), "is not what the plan says"),
    ],
)
def test_the_self_check_finds_our_own_bugs(broken: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArmCpu, "built", ArmCpu.build, raising=False)
    monkeypatch.setattr(ArmCpu, "build", broken)
    with pytest.raises(SelfCheckFailed, match=says):
        rewrite_package(b.package(b.devices()), 0, policy(), LIMITS)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b.Device(b"slirp", b"old style", 4).wire(6), b.Device(b"slirp", b"OLD style", 4).wire(6), "section slirp/0"),
        (b.Device(b"slirp", b"old style", 4).wire(6), b.Device(b"slirp", b"old style", 5).wire(6), "section slirp/0"),
        (b.be32(0x42), b.be32(0x43), "cannot be read"),
        (b"\x08\x00\x02\x00\x04" + b.be32(0x42), b"", "what follows the sections"),
        (b.Device(b"slirp", b"old style", 4).wire(6), b"", "is not what the plan says"),
    ],
)
def test_the_self_check_looks_at_everything(old: bytes, new: bytes, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = b.package(b.devices())
    cut = package_module.cut_package(wire, 0, 9)
    cpus = package_module.vcpus_in(wire, cut, 0, LIMITS)
    assert old in wire
    with pytest.raises(SelfCheckFailed, match=says):
        package_module._self_check(wire, cut, wire.replace(old, new), cpus, LIMITS)
