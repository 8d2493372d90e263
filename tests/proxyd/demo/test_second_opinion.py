"""What proxyd calls loadable loads on the stand-in destination, which has its own mind about streams and kernels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio.testing

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.demo.destination import Destination, Machine
from proxyd.demo.register_file import Host
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination as Towards
from proxyd.rewrite.plan import Outcome
from proxyd.rewrite.policy import ReturnPathPolicy, RewritePolicy
from proxyd.rewrite.rewriter import RewriteRefused, StreamRewriter
from tests import recorded

REGLISTS = Path(__file__).parents[2] / "reglists"
KERNELS = ["6.12", "6.18", "7.3"]
STREAMS = [name for name in recorded.names() if "neoverse-n1" in name and "-7.2-" not in name]
assert STREAMS


def host(kernel: str) -> HostDescription:
    listed = json.loads((REGLISTS / f"{kernel}-neoverse-n1.json").read_text())
    kept = {int(key, 16): value for key, value in listed["regs"].items()}
    registers = {key: int(value, 16) for key, value in kept.items() if key >> 16 & 0xFFF not in {0x10, 0x15}}
    masks = {int(key, 16): int(value, 16) for key, value in listed["writable_masks"].items()}
    return HostDescription(kernel, CpregList(registers), kernel=listed["kernel"], writable_masks=masks)


async def loads(stream: bytes, machine: Machine, there: HostDescription) -> tuple[str, ...]:
    """What the stand-in has to say against it."""
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(stream)
    await ours.send_eof()
    return (await Destination(machine, Host(there.registers, there.writable_masks or {})).load(theirs)).stderr


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", STREAMS)
async def test_what_is_released_loads(name: str, kernel: str) -> None:
    wire, there = recorded.load(name), host(kernel)
    # What the operator would have to accept on the way back, on this CPU: the PSCI version.
    policy = RewritePolicy(
        Towards(host=there), Knowledge.builtin(), frozenset({id_of("FW_PSCI_VERSION")}), ReturnPathPolicy.OPTIONAL
    )
    rewriter = StreamRewriter(policy)
    try:
        out = b"".join(bytes(buffer) for buffer in rewriter.feed(wire))
    except RewriteRefused as refused:
        pytest.fail(f"{name} to {kernel}: {refused}")
    rewriter.finish()
    assert rewriter.report is not None
    machine = Machine.of(wire)
    assert await loads(out, machine, there) == ()
    # And the plan is no more than is needed: what it calls loadable as it is, is.
    before = await loads(wire, machine, there)
    assert (rewriter.report.plan.outcome is Outcome.LOADS_AS_IS) <= (before == ())
