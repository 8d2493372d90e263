"""Postcopy through the rewriter: who may switch, what is held, and that nobody's guest is given up for lost."""

from __future__ import annotations

import re

import pytest

from formats.arm64.register_id import id_of
from formats.errors import LimitExceeded, SchemaMismatch
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination
from proxyd.rewrite.policy import PostcopyPolicy, RewritePolicy, StreamLimits
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.rehearsal import Finding, FindingKind, Rehearsal
from proxyd.rewrite.rewriter import Phase, RewriteRefused, StreamRewriter
from tests import builders as b

TCR2 = id_of("TCR2_EL1")
REMOVE = '[[rule]]\nkind="remove"\nregister="TCR2_EL1"\nreason="r"\n'
REFUSE = REMOVE + 'verdict="lossy"'
REGISTERS = {id_: value for id_, value in b.SOME_REGISTERS.items() if id_ != TCR2}
AFTER = b"\x08\x00\x02\x00\x04" + b.be32(4) + b"pages that the guest waits for"
FAITHFUL = Rehearsal((), ("psci",), "7.3.4", 0, 0.25)


def head(machine: bytes = b"virt-10.2", advise: bytes = b.POSTCOPY_ADVISE) -> bytes:
    return b.MAGIC + b.configuration(machine) + b.OPEN_RETURN_PATH + b.PING + advise


def rewriter(
    profile: str | None = REMOVE, postcopy: PostcopyPolicy = PostcopyPolicy.PROVEN, *, rehearse: bool = False
) -> StreamRewriter:
    destination = None if profile is None else Destination(profile=Profile.parse(profile.encode(), "p.toml"))
    return StreamRewriter(RewritePolicy(destination, Knowledge(), postcopy=postcopy, rehearse=rehearse), StreamLimits())


def fed(rewrite: StreamRewriter, wire: bytes, step: int | None = None) -> bytes:
    out = b""
    for i in range(0, len(wire), step or len(wire)):
        out += b"".join(bytes(buffer) for buffer in rewrite.feed(wire[i : i + (step or len(wire))]))
    return out


@pytest.mark.parametrize("step", [None, 1, 13, 4096])
def test_the_package_is_held_rewritten_and_released(step: int | None) -> None:
    before = head() + b.ram()
    wire = before + b.packaged(b.package(b.devices(2))) + AFTER
    rewrite = rewriter()
    assert fed(rewrite, wire, step) == before + b.packaged(b.package(b.devices(2, REGISTERS))) + AFTER
    assert (rewrite.phase, rewrite.postcopy_advised, rewrite.forced) == (Phase.RELEASED, True, None)
    assert rewrite.report is not None
    assert len(rewrite.report.plan.changes) == 2
    assert rewrite.sections["full"] == 6
    assert rewrite.finish() == []


def test_nothing_of_the_package_leaves_before_its_last_byte() -> None:
    rewrite = rewriter()
    fed(rewrite, head() + b.ram())
    package = b.packaged(b.package(b.devices()))
    assert fed(rewrite, package[:-1], 3) == b""
    assert (rewrite.phase, rewrite.held_bytes) == (Phase.HOLDING, len(package) - 1 - 9)
    assert fed(rewrite, package[-1:]).startswith(package[:5])


def test_a_switch_that_never_happens_ends_as_precopy() -> None:
    wire = head() + b.ram() + b.tail(b.devices())
    rewrite = rewriter()
    out = fed(rewrite, wire)
    assert rewrite.phase is Phase.RELEASED
    assert b.cpu(REGISTERS).payload in out


@pytest.mark.parametrize(
    ("machine", "policy", "profile", "advise", "may"),
    [
        (b"virt-10.2", PostcopyPolicy.PROVEN, REMOVE, b.POSTCOPY_ADVISE, True),
        (b"virt-11.0", PostcopyPolicy.PROVEN, REMOVE, b.POSTCOPY_ADVISE, True),
        (b"virt-10.1", PostcopyPolicy.PROVEN, REMOVE, b.POSTCOPY_ADVISE, False),
        (b"virt-9.2", PostcopyPolicy.PROVEN, REMOVE, b.POSTCOPY_ADVISE, False),
        (b"virt", PostcopyPolicy.PROVEN, REMOVE, b.POSTCOPY_ADVISE, False),
        (b"virt-9.2", PostcopyPolicy.SOURCES_10_2, REMOVE, b.POSTCOPY_ADVISE, True),
        (b"virt-9.2", PostcopyPolicy.MAY_LOSE_GUEST, REMOVE, b.POSTCOPY_ADVISE, True),
        # Nothing is rewritten: what happens is what would happen without proxyd.
        (b"virt-9.2", PostcopyPolicy.PROVEN, None, b.POSTCOPY_ADVISE, True),
        # Only dirty bitmaps may come after the switch, and nobody switches for them.
        (b"virt-9.2", PostcopyPolicy.PROVEN, REMOVE, b"\x08\x00\x03\x00\x00", True),
    ],
)
def test_who_may_become_postcopy(
    machine: bytes, policy: PostcopyPolicy, profile: str | None, advise: bytes, may: bool
) -> None:
    rewrite = rewriter(profile, policy)
    assert fed(rewrite, head(machine, advise)) == b""
    if may:
        assert fed(rewrite, b.ram()).startswith(head(machine, advise))
        return
    with pytest.raises(RewriteRefused) as caught:
        fed(rewrite, b.ram())
    assert f"machine type ({machine.decode()})" in str(caught.value)
    for way_out in ("postcopy-ram off", "machine type of 10.2", '"sources-10.2"', '"may-lose-guest"'):
        assert way_out in str(caught.value)


@pytest.mark.parametrize(
    ("machine", "policy"),
    [(b"virt-10.2", PostcopyPolicy.PROVEN), (b"virt-7.2", PostcopyPolicy.SOURCES_10_2)],
)
def test_a_source_that_waits_is_refused(machine: bytes, policy: PostcopyPolicy) -> None:
    rewrite = rewriter(REFUSE, policy)
    fed(rewrite, head(machine) + b.ram())
    with pytest.raises(RewriteRefused, match="TCR2_EL1"):
        fed(rewrite, b.packaged(b.package(b.devices())))


def test_a_machine_type_that_proves_it_is_enough() -> None:
    rewrite = rewriter()
    fed(rewrite, head() + b.ram())
    with pytest.raises(SchemaMismatch, match="LISTEN"):
        fed(rewrite, b.packaged(b"nonsense"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b.package(b.devices(), loaded_ping=False), "lossy"),
        (b.package([b.cpu(b.SOME_REGISTERS), b.cpu(b.SOME_REGISTERS)], loaded_ping=False), "one section expected"),
        (b"nonsense", "LISTEN"),
    ],
)
def test_a_source_that_has_given_its_guest_up_is_not(content: bytes, why: str) -> None:
    rewrite = rewriter(REFUSE, PostcopyPolicy.MAY_LOSE_GUEST)
    fed(rewrite, head(b"virt-9.2") + b.ram())
    assert fed(rewrite, b.packaged(content) + AFTER) == b.packaged(content) + AFTER
    assert rewrite.phase is Phase.RELEASED
    assert rewrite.forced is not None
    assert rewrite.forced.startswith("delivered as it came, because its source (before QEMU 10.2) cannot take")
    assert why in rewrite.forced
    assert rewrite.report is None


def test_a_package_that_waits_and_cannot_be_read_is_refused() -> None:
    rewrite = rewriter()
    fed(rewrite, head() + b.ram())
    twice = b.package([b.cpu(b.SOME_REGISTERS), b.cpu(b.SOME_REGISTERS)])
    with pytest.raises(SchemaMismatch, match="one section expected"):
        fed(rewrite, b.packaged(twice))


def test_without_a_destination_nothing_is_looked_at() -> None:
    rewrite = rewriter(None)
    fed(rewrite, head() + b.ram())
    assert fed(rewrite, b.packaged(b"whatever it is")) == b.packaged(b"whatever it is")
    assert rewrite.passthrough_reason == "the route names no destination host or profile"


def test_without_arm_vcpus_it_passes() -> None:
    rewrite = rewriter()
    fed(rewrite, head() + b.ram())
    content = b.package([b.Device(b"timer", b"x")])
    assert fed(rewrite, b.packaged(content)) == b.packaged(content)
    assert rewrite.passthrough_reason == "the device state has no arm vCPU with a register list"


def test_a_package_waits_for_its_rehearsal() -> None:
    rewrite = rewriter(rehearse=True)
    fed(rewrite, head() + b.ram())
    assert fed(rewrite, b.packaged(b.package(b.devices())) + AFTER) == b""
    assert rewrite.phase is Phase.REHEARSING
    out = b"".join(bytes(buffer) for buffer in rewrite.release(FAITHFUL))
    assert out == b.packaged(b.package(b.devices(1, REGISTERS))) + AFTER


def test_a_rehearsal_that_finds_something_refuses() -> None:
    rewrite = rewriter(rehearse=True)
    fed(rewrite, head() + b.ram())
    fed(rewrite, b.packaged(b.package(b.devices())))
    register, value = next(iter(REGISTERS.items()))
    finding = Finding(0, register, FindingKind.REFUSED, value, None, 22)
    with pytest.raises(RewriteRefused, match=re.escape("MIDR_EL1")):
        rewrite.release(Rehearsal((finding,), (), "7.3.4", 0, 0.1))


def test_a_source_that_does_not_wait_is_not_rehearsed() -> None:
    """Its answer could only be a refusal that loses the guest."""
    rewrite = rewriter(postcopy=PostcopyPolicy.MAY_LOSE_GUEST, rehearse=True)
    fed(rewrite, head(b"virt-9.2") + b.ram())
    content = b.package(b.devices(), loaded_ping=False)
    expected = b.packaged(b.package(b.devices(1, REGISTERS), loaded_ping=False))
    assert fed(rewrite, b.packaged(content)) == expected
    assert rewrite.phase is Phase.RELEASED


@pytest.mark.parametrize("step", [None, 1, 13])
def test_a_package_that_is_too_large_to_hold(step: int | None) -> None:
    """Refused where the source resumes its guest; where it cannot, passed on unread: a refusal would lose the guest."""
    package = b.packaged(b.package(b.devices(), loaded_ping=False))
    small = StreamLimits(device_state_bytes=100)
    for machine, postcopy in ((b"virt-10.2", PostcopyPolicy.PROVEN), (b"virt-10.0", PostcopyPolicy.SOURCES_10_2)):
        policy = rewriter(postcopy=postcopy).policy
        with pytest.raises(LimitExceeded, match="postcopy package of at most 100 bytes expected"):
            fed(StreamRewriter(policy, small), head(machine) + b.ram() + package, step)
    wire = head(b"virt-10.0") + b.ram() + package + AFTER
    for profile in (REMOVE, None):
        rewrite = StreamRewriter(rewriter(profile, PostcopyPolicy.MAY_LOSE_GUEST).policy, small)
        assert fed(rewrite, wire, step) == wire
        assert (rewrite.phase, rewrite.held_bytes, rewrite.finish()) == (Phase.RELEASED, 0, [])
        assert rewrite.forced == (
            None
            if profile is None
            else "delivered as it came, because its source (before QEMU 10.2) cannot take the guest back: postcopy "
            f"package of at most 100 bytes expected (limit device_state_bytes), found {len(package) - 9}"
        )


def test_a_package_before_any_section_is_no_stream() -> None:
    """What is asked of a stream is asked at its first section, and what was held until then would stay behind."""
    wire = b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH + b.packaged(b.package(b.devices()))
    rewrite = rewriter()
    with pytest.raises(SchemaMismatch, match="memory expected before a postcopy package, found none"):
        rewrite.feed(wire)
