"""Every recorded stream towards every host with its CPU: what comes out is whole, fits, and needs no second pass."""

from __future__ import annotations

import pytest

from formats.events import DeviceTail
from formats.parser import StreamParser
from proxyd.rewrite.firewall import FirewallMode, FirewallPolicy
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination, Outcome
from proxyd.rewrite.policy import ReturnPathPolicy, RewritePolicy, StreamLimits
from proxyd.rewrite.rewriter import Phase, RewriteRefused, StreamRewriter
from proxyd.rewrite.tail import registers_of
from tests import recorded

CPUS = ("neoverse-n1", "neoverse-v1", "max")


def rewrite(wire: bytes, host: HostDescription) -> tuple[bytes, StreamRewriter]:
    policy = RewritePolicy(Destination(host), Knowledge.builtin(), return_path=ReturnPathPolicy.OPTIONAL)
    rewriter, out = StreamRewriter(policy), []
    for i in range(0, len(wire), 65536):
        out += [bytes(buffer) for buffer in rewriter.feed(wire[i : i + 65536])]
    rewriter.finish()
    assert rewriter.phase is Phase.RELEASED
    return b"".join(out), rewriter


def tail_of(wire: bytes) -> DeviceTail:
    (tail,) = [event for event in StreamParser().feed(wire) if isinstance(event, DeviceTail)]
    return tail


@pytest.mark.parametrize("name", recorded.names())
def test_towards_every_host(name: str) -> None:
    wire = recorded.load(name)
    (cpu,) = [cpu for cpu in CPUS if f"-{cpu}-" in name]
    before = tail_of(wire)
    loaded = 0
    for kernel in recorded.KERNELS:
        host = HostDescription.parse(recorded.host_json(kernel, cpu), kernel)
        try:
            out, rewriter = rewrite(wire, host)
        except RewriteRefused:
            continue
        loaded += 1
        assert rewriter.report is not None
        after = tail_of(out)
        # RAM and everything before the device part is as it came; every other section, too.
        assert out[: after.offset] == wire[: before.offset]
        for old, new in zip(before.sections, after.sections, strict=True):
            if old.device.name != "cpu":
                assert bytes(after.raw[new.start : new.end]) == bytes(before.raw[old.start : old.end])
        for vcpu in registers_of(after, StreamLimits()):
            assert set(vcpu.registers) <= set(host.registers)
        again, second = rewrite(out, host)
        assert again == out
        assert second.report is not None
        assert second.report.plan.outcome is Outcome.LOADS_AS_IS
    assert loaded, "a stream must load on the kernel that it comes from"


@pytest.mark.parametrize("name", recorded.mode_names())
def test_a_strict_firewall_finds_nothing_in_what_qemu_sends(name: str) -> None:
    """Whatever the mode; without a list of sections, which is the operator's."""
    strict = FirewallPolicy(FirewallMode.DENY, section_bytes=1 << 20, instances=8)
    policy = RewritePolicy(None, Knowledge(), return_path=ReturnPathPolicy.OPTIONAL, firewall=strict)
    rewriter = StreamRewriter(policy)
    wire = recorded.load_mode(name)
    out = b"".join(bytes(buffer) for i in range(0, len(wire), 65536) for buffer in rewriter.feed(wire[i : i + 65536]))
    assert out == wire
    assert rewriter.findings == []
