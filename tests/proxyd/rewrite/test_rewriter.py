"""One stream on its way: what is held, when it is let go, and what never leaves."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.arm64.register_id import id_of
from formats.errors import FormatError, LimitExceeded, SchemaMismatch, TruncatedStream
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination, Outcome
from proxyd.rewrite.policy import ReturnPathPolicy, RewritePolicy, StreamLimits
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.rehearsal import Finding, FindingKind, Rehearsal
from proxyd.rewrite.rewriter import MAX_PROLOGUE_BYTES, NO_RETURN_PATH, Phase, RewriteRefused, StreamRewriter
from tests import builders as b
from tests import images

TCR2 = id_of("TCR2_EL1")
REMOVE = '[[rule]]\nkind="remove"\nregister="TCR2_EL1"\nreason="r"\n'
WITHOUT = b.devices(registers={id_: value for id_, value in b.SOME_REGISTERS.items() if id_ != TCR2})

PROLOGUE = b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH
STREAM = b.stream()
TAIL_STARTS = len(b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH + b.PING + b.ram())


def rewriter(profile: str | None = REMOVE, *, optional: bool = False, **limits: int) -> StreamRewriter:
    destination = None if profile is None else Destination(profile=Profile.parse(profile.encode(), "p.toml"))
    return_path = ReturnPathPolicy.OPTIONAL if optional else ReturnPathPolicy.REQUIRE
    return StreamRewriter(RewritePolicy(destination, Knowledge(), return_path=return_path), StreamLimits(**limits))


def run(rewrite: StreamRewriter, wire: bytes, step: int | None = None) -> bytes:
    out = b""
    for i in range(0, len(wire), step or len(wire)):
        out += b"".join(bytes(buffer) for buffer in rewrite.feed(wire[i : i + (step or len(wire))]))
    return out + b"".join(bytes(buffer) for buffer in rewrite.finish())


def feed_bytewise(rewrite: StreamRewriter, wire: bytes, out: bytearray) -> None:
    for i in range(len(wire)):
        for buffer in rewrite.feed(wire[i : i + 1]):
            out += buffer


@pytest.mark.parametrize("step", [None, 1, 7, 4096])
def test_the_same_output_in_any_chunking(step: int | None) -> None:
    rewrite = rewriter()
    out = run(rewrite, STREAM, step)
    assert out == run(rewriter(), STREAM)
    assert out[:TAIL_STARTS] == STREAM[:TAIL_STARTS]
    sections = b"".join(device.wire(3 + i) for i, device in enumerate(WITHOUT))
    assert out[TAIL_STARTS:].startswith(sections + b"\x00\x06")
    assert rewrite.phase is Phase.RELEASED
    assert rewrite.report is not None
    assert rewrite.report.plan.outcome is Outcome.LOADS_REWRITTEN
    assert (rewrite.machine, rewrite.bytes_in, rewrite.held_bytes) == ("virt-10.0", len(STREAM), 0)
    assert rewrite.sections == {"start": 1, "part": 1, "end": 1, "full": 4}


def test_the_phases_byte_by_byte() -> None:
    rewrite = rewriter()
    phases: list[Phase] = []
    for i in range(len(STREAM)):
        out = rewrite.feed(STREAM[i : i + 1])
        if not phases or phases[-1] is not rewrite.phase:
            phases.append(rewrite.phase)
        if i < len(PROLOGUE) - 1:
            assert not out, "the prologue is held until it is acceptable"
        if rewrite.phase is Phase.HOLDING:
            assert not out, "device state is held until it is proven"
    assert phases == [Phase.PROLOGUE, Phase.MEMORY, Phase.HOLDING, Phase.RELEASED]


def test_what_is_held() -> None:
    rewrite = rewriter()
    held = len(PROLOGUE + b.PING)
    assert rewrite.feed(STREAM[:held]) == []
    assert rewrite.held_bytes == held
    assert rewrite.feed(STREAM[held : held + 17]) != []  # the first section's header
    assert rewrite.held_bytes == 0
    rewrite.feed(STREAM[held + 17 : TAIL_STARTS + 100])
    assert (rewrite.phase, rewrite.held_bytes) == (Phase.HOLDING, 100)
    assert "without a vmdesc" in rewrite.waiting_for


def test_guest_memory_is_passed_on_without_a_copy() -> None:
    rewrite = rewriter()
    rewrite.feed(STREAM[: len(PROLOGUE)])
    chunk = STREAM[len(PROLOGUE) : TAIL_STARTS]
    views = [buffer for buffer in rewrite.feed(chunk) if isinstance(buffer, memoryview)]
    assert sum(len(view) for view in views) > 3 * b.PAGE
    assert all(view.obj is chunk for view in views)


def test_without_a_return_path_nothing_leaves() -> None:
    wire = b.stream(prologue=b.MAGIC + b.configuration())
    rewrite = rewriter()
    out = bytearray()
    with pytest.raises(RewriteRefused, match=f"^{re.escape(NO_RETURN_PATH)}$"):
        feed_bytewise(rewrite, wire, out)
    assert out == b""
    assert "migrate_set_capability return-path on" in NO_RETURN_PATH
    optional = rewriter(optional=True)
    assert run(optional, wire).startswith(b.MAGIC + b.configuration() + b"\x01")
    assert (optional.phase, optional.return_path) == (Phase.RELEASED, False)


def test_a_refusal_names_the_register_and_releases_nothing() -> None:
    rewrite = rewriter(REMOVE + 'verdict="lossy"')
    out = bytearray()
    with pytest.raises(RewriteRefused) as caught:
        feed_bytewise(rewrite, STREAM, out)
    assert str(caught.value) == (
        'vcpu 0: TCR2_EL1 (0x603000000013c103) = 0x0: lossy: r (allow = ["TCR2_EL1"] accepts that)'
    )
    assert [refusal.register for refusal in caught.value.refusals] == [TCR2]
    assert caught.value.report is not None
    assert out == STREAM[:TAIL_STARTS]


def test_several_refusals_are_counted() -> None:
    lossy = REMOVE + 'verdict="lossy"\n'
    more = lossy + lossy.replace("TCR2_EL1", "MIDR_EL1")
    with pytest.raises(RewriteRefused, match=r"\(and 1 more\)$"):
        run(rewriter(more), STREAM)


def test_without_a_destination_everything_passes() -> None:
    rewrite = rewriter(None)
    assert run(rewrite, STREAM) == STREAM
    assert rewrite.passthrough_reason == "the route names no destination host or profile"
    assert rewrite.report is None


def test_a_guest_without_arm_vcpus_passes() -> None:
    rewrite = rewriter()
    wire = b.stream(parts=[b.Device(b"timer", b"x")])
    assert run(rewrite, wire) == wire
    assert rewrite.passthrough_reason == "the device state has no arm vCPU with a register list"


@pytest.mark.parametrize("step", [None, 1, 3])
def test_another_architecture_passes_untouched(step: int | None) -> None:
    rewrite = rewriter()
    wire = b.MAGIC + b.configuration(b"pc-q35-9.0", None) + b.start(2, b"", b"unknown to us", 1) + b"and so on"
    assert run(rewrite, wire, step) == wire
    assert rewrite.phase is Phase.OPAQUE
    assert rewrite.passthrough_reason == (
        "machine 'pc-q35-9.0' is not arm (its page size is fixed): nothing is rewritten"
    )


def test_limits() -> None:
    with pytest.raises(LimitExceeded, match="limit device_state_bytes"):
        run(rewriter(device_state_bytes=100), STREAM)
    with pytest.raises(LimitExceeded, match="limit sections"):
        run(rewriter(sections=3), STREAM)
    with pytest.raises(LimitExceeded, match="cpreg list of at most 2 registers expected, found 3"):
        run(rewriter(cpregs=2), STREAM)


def test_the_prologue_is_bounded() -> None:
    """A source that never gets to its first section could fill the memory until header_time_s is over."""
    rewrite = rewriter()
    rewrite.feed(b.MAGIC + b.configuration())
    most = (MAX_PROLOGUE_BYTES - len(PROLOGUE)) // len(b.PING)
    assert rewrite.feed(b.PING * most) == []
    assert rewrite.held_bytes == len(b.MAGIC + b.configuration()) + most * len(b.PING)
    with pytest.raises(LimitExceeded, match=r"a first section within 8192 bytes expected, found none$"):
        rewrite.feed(b.PING * len(PROLOGUE))


def test_a_stream_that_ends_early_or_late() -> None:
    with pytest.raises(TruncatedStream, match="without a vmdesc"):
        run(rewriter(), STREAM[:-1])
    rewrite = rewriter()
    run(rewrite, STREAM)
    with pytest.raises(SchemaMismatch, match="end of the stream expected behind the vmdesc"):
        rewrite.feed(b"more")


def test_return_path_opened_twice_is_passed_on() -> None:
    wire = b.stream(memory=b.OPEN_RETURN_PATH + b.ram())
    assert run(rewriter(None), wire) == wire


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(STREAM) - 1), st.integers(1, 255), st.sampled_from([1 << 20, 4096, 97]))
def test_whatever_comes_what_leaves_before_a_refusal_is_a_prefix(at: int, flip: int, step: int) -> None:
    wire = bytearray(STREAM)
    wire[at] ^= flip
    rewrite, out = rewriter(None), b""
    try:
        for i in range(0, len(wire), step):
            out += b"".join(bytes(buffer) for buffer in rewrite.feed(bytes(wire[i : i + step])))
        rewrite.finish()
    except (FormatError, RewriteRefused):
        pass
    assert bytes(wire).startswith(out)


FAITHFUL = Rehearsal((), ("psci",), "7.3.4", 1, 0.5)
CHANGED = Rehearsal((Finding(0, id_of("MIDR_EL1"), FindingKind.CHANGED, 2, 1),), ("psci",), "7.3.4", 1, 0.5)


def rehearsing(allow: frozenset[int] = frozenset(), profile: str | None = REMOVE) -> StreamRewriter:
    plain = rewriter(profile).policy
    return StreamRewriter(dataclasses.replace(plain, rehearse=True, allow=allow))


@pytest.mark.parametrize("step", [None, 1, 4096])
def test_what_is_rehearsed_leaves_when_it_is_released(step: int | None) -> None:
    rewrite = rehearsing()
    before = run_until_rehearsal(rewrite, STREAM, step)
    assert before == STREAM[:TAIL_STARTS]
    assert rewrite.phase is Phase.REHEARSING
    assert rewrite.planned is not None
    assert [dict(vcpu.registers) for vcpu in rewrite.planned.rewritten] == [
        {id_: value for id_, value in b.SOME_REGISTERS.items() if id_ != TCR2}
    ]
    plain = rewriter()
    whole = run(plain, STREAM)
    assert rewrite.held_bytes == len(whole) - TAIL_STARTS
    assert (rewrite.report, rewrite.finish()) == (None, [])
    out = before + b"".join(bytes(buffer) for buffer in rewrite.release(FAITHFUL))
    assert out == whole
    assert (rewrite.phase, rewrite.held_bytes, rewrite.planned) == (Phase.RELEASED, 0, None)
    assert rewrite.report is not None
    assert rewrite.report.rehearsal == FAITHFUL


def run_until_rehearsal(rewrite: StreamRewriter, wire: bytes, step: int | None) -> bytes:
    out = b""
    for i in range(0, len(wire), step or len(wire)):
        out += b"".join(bytes(buffer) for buffer in rewrite.feed(wire[i : i + (step or len(wire))]))
    return out


def test_a_finding_is_a_refusal_and_nothing_leaves() -> None:
    rewrite = rehearsing()
    run_until_rehearsal(rewrite, STREAM, None)
    with pytest.raises(RewriteRefused, match=r"rehearsed on Linux 7\.3\.4: the destination's KVM takes 0x2") as refused:
        rewrite.release(CHANGED)
    assert [refusal.register for refusal in refused.value.refusals] == [id_of("MIDR_EL1")]
    assert refused.value.report is not None
    assert refused.value.report.rehearsal == CHANGED
    assert rewrite.phase is Phase.REHEARSING
    with pytest.raises(AssertionError, match="waits for its rehearsal"):
        rewrite.release(FAITHFUL)


def test_a_change_that_is_allowed_by_name() -> None:
    rewrite = rehearsing(frozenset({id_of("MIDR_EL1")}))
    run_until_rehearsal(rewrite, STREAM, None)
    assert rewrite.release(CHANGED)


def test_a_plan_that_refuses_is_not_rehearsed() -> None:
    rewrite = rehearsing(profile='[[rule]]\nkind="require"\nwhen="MIDR_EL1 == 0"\nregister="MIDR_EL1"\nreason="r"\n')
    with pytest.raises(RewriteRefused):
        run_until_rehearsal(rewrite, STREAM, None)
    assert rewrite.planned is None


def test_without_a_plan_there_is_nothing_to_rehearse() -> None:
    rewrite = rehearsing(profile=None)
    assert run(rewrite, STREAM) == STREAM
    assert rewrite.phase is Phase.RELEASED


def test_where_a_file_goes_on_and_where_its_device_part_begins() -> None:
    data = images.mapped_ram()
    rewriter = StreamRewriter(
        RewritePolicy(None, Knowledge.builtin(), return_path=ReturnPathPolicy.OPTIONAL), seekable_from=0
    )
    assert (rewriter.offset, rewriter.jumps, rewriter.tail_offset) == (0, 0, None)
    offsets = []
    while piece := data[rewriter.offset : rewriter.offset + images.MIB]:
        offsets.append(rewriter.offset)
        rewriter.feed(piece)
    rewriter.finish()
    # Behind each block's pages: 2 MiB at 1 MiB, and one page at the next whole MiB.
    assert offsets == [0, 3 * images.MIB, 4 * images.MIB + b.PAGE]
    assert rewriter.jumps == 2
    assert rewriter.tail_offset == data.index(b.devices(2)[0].wire(3))
    assert StreamRewriter(RewritePolicy(None, Knowledge.builtin())).jumps == 0
