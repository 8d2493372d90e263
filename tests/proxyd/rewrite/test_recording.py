"""A recording is whole or none, and does the same again."""

from __future__ import annotations

import msgspec
import pytest

from formats.arm64.register_id import id_of
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination
from proxyd.rewrite.policy import PostcopyPolicy, RewritePolicy, StreamLimits
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.recording import (
    MAGIC,
    Early,
    Recorded,
    Recording,
    RecordingError,
    destination_of,
    replay,
    report_of,
    was_forced,
)
from proxyd.rewrite.rewriter import RewriteRefused, StreamRewriter
from tests import builders as b

REMOVE = '[[rule]]\nkind="remove"\nregister="TCR2_EL1"\nreason="r"\n'
REFUSE = REMOVE + 'verdict="lossy"\n'
TCR2 = id_of("TCR2_EL1")
ADVISED = b.MAGIC + b.configuration(b"virt-10.2") + b.OPEN_RETURN_PATH + b.PING + b.POSTCOPY_ADVISE


def a_policy(profile: str = REMOVE) -> RewritePolicy:
    destination = Destination(profile=Profile.parse(profile.encode(), "p.toml"))
    return RewritePolicy(destination, Knowledge.builtin(), postcopy=PostcopyPolicy.MAY_LOSE_GUEST, record=True)


def recorded(rewriter: StreamRewriter, profile: str = REMOVE) -> Recorded:
    evidence = rewriter.unproven()
    assert evidence is not None
    facts = Recording(
        version=1, proxyd="0", knowledge="0", time="2026-01-01T00:00:00.000Z", migration="abc", route="lab",
        source="192.0.2.1:1", machine=rewriter.machine, outcome="released", reason="",
        kind="package" if evidence.package else "tail", offset=evidence.offset, page_size=evidence.page_size,
        early=tuple(Early(one.idstr, one.instance_id, one.version_id, one.payload_bytes) for one in evidence.early),
        host=None, profile=profile, allow=(), limits=msgspec.to_builtins(StreamLimits()),
        report=report_of(rewriter.machine, None if rewriter.report is None else rewriter.report.plan),
        before_bytes=0, after_bytes=0,
    )  # fmt: skip
    return Recorded(facts, bytes(evidence.before), b"".join(map(bytes, evidence.after)))


def again(one: Recorded) -> Recorded:
    return Recorded.parse(one.to_bytes())


def test_precopy_does_the_same_again() -> None:
    rewriter = StreamRewriter(a_policy())
    out = b"".join(map(bytes, rewriter.feed(b.stream())))
    one = again(recorded(rewriter))
    assert b.stream().endswith(one.before)
    assert out.endswith(one.after)
    assert one.after != one.before
    replayed = replay(one, destination_of(one.facts), frozenset())
    assert (replayed.after, replayed.error) == (one.after, None)
    assert replayed.plan is not None
    assert report_of(one.facts.machine, replayed.plan) == one.facts.report


def test_a_stream_with_early_sections_does_so_too() -> None:
    early = b.Device(b"0000:00:03.0/virtio-mem-early", bytes(16))
    devices = b.devices()
    memory = b"".join([early.wire(9), b.ram()])
    rewriter = StreamRewriter(a_policy())
    tail = b"".join(device.wire(3 + n) for n, device in enumerate(devices)) + b"\0" + b.vmdesc([early, *devices])
    wire = b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH + memory + tail
    try:
        rewriter.feed(wire)
    except Exception:
        pytest.fail("the stream is legal")
    one = again(recorded(rewriter))
    assert len(one.facts.early) == 1
    assert replay(one, destination_of(one.facts), frozenset()).after == one.after


def test_a_package_does_so_too() -> None:
    rewriter = StreamRewriter(a_policy())
    rewriter.feed(ADVISED + b.ram() + b.packaged(b.package(b.devices())))
    one = again(recorded(rewriter))
    assert (one.facts.kind, one.before) == ("package", b.package(b.devices()))
    assert replay(one, destination_of(one.facts), frozenset()).after == one.after
    assert not was_forced(one)


def test_a_package_that_was_forced_is_known_as_such() -> None:
    rewriter = StreamRewriter(a_policy(REFUSE))
    wire = b.MAGIC + b.configuration(b"virt-8.0") + b.OPEN_RETURN_PATH + b.POSTCOPY_ADVISE + b.ram()
    rewriter.feed(wire + b.packaged(b.package(b.devices(), loaded_ping=False)))
    assert rewriter.forced is not None
    one = again(recorded(rewriter, REFUSE))
    assert was_forced(one)
    assert "lossy" in str(replay(one, destination_of(one.facts), frozenset()).error)


def test_a_refusal_is_refused_again_and_allowed_where_that_is_asked() -> None:
    rewriter = StreamRewriter(a_policy(REFUSE))
    with pytest.raises(RewriteRefused):
        rewriter.feed(b.stream())
    one = again(recorded(rewriter, REFUSE))
    assert one.after == b""
    replayed = replay(one, destination_of(one.facts), frozenset())
    assert replayed.error is not None
    assert "TCR2_EL1" in replayed.error
    assert replay(one, destination_of(one.facts), frozenset({TCR2})).after
    # Elsewhere it may be another matter.
    assert replay(one, None, frozenset()).after == one.before


def test_what_was_not_understood_is_recorded_as_well() -> None:
    rewriter = StreamRewriter(a_policy())
    wire = b.stream()
    rewriter.feed(wire[:-9])
    one = again(recorded(rewriter))
    replayed = replay(one, destination_of(one.facts), frozenset())
    assert replayed.error is not None
    assert "without a vmdesc" in replayed.error


def test_without_leave_nothing_is_kept() -> None:
    policy = a_policy()
    quiet = StreamRewriter(RewritePolicy(policy.destination, policy.knowledge))
    quiet.feed(b.stream())
    assert quiet.unproven() is None
    early = StreamRewriter(a_policy())
    early.feed(b.MAGIC)
    assert early.unproven() is None


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: b"QEVM" + data, "expected, found b'QEVM"),
        (lambda data: data[:-1], "bytes expected, found"),
        (lambda data: data + b"x", "bytes expected, found"),
        (lambda data: MAGIC, "a header of at most"),
        (lambda data: MAGIC + b"\xff" * 40, "a header of at most"),
        (lambda data: data[:40] + b"\xff" + data[41:], "a whole recording expected, found"),
        (lambda data: data[:-60] + bytes(60), "a whole recording expected, found"),
    ],
)
def test_what_is_no_recording(spoil: object, says: str) -> None:
    rewriter = StreamRewriter(a_policy())
    rewriter.feed(b.stream())
    assert callable(spoil)
    with pytest.raises(RecordingError, match=says):
        Recorded.parse(spoil(recorded(rewriter).to_bytes()))
