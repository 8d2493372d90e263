"""Main channels of real QEMUs in every mode of migration: walked whole and in pieces, and rewritten.

``tests/streams/modes`` holds them, by mode and version: a guest of 32 MiB under TCG, recorded between its source and
its destination (background snapshots: as they were saved).
"""

from __future__ import annotations

import random

import pytest

from formats import events
from formats.arm64.register_id import id_of
from formats.iterative.ram_census import RamCensus
from formats.package import cut_package
from formats.parser import StreamParser
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.package import vcpus_in
from proxyd.rewrite.plan import Destination, Outcome
from proxyd.rewrite.policy import PostcopyPolicy, ReturnPathPolicy, RewritePolicy, StreamLimits
from proxyd.rewrite.profile import Profile
from proxyd.rewrite.rewriter import Phase, StreamRewriter
from proxyd.rewrite.tail import registers_of
from tests import recorded

MIB = 1 << 20
NAMES = recorded.mode_names()
POSTCOPY = [name for name in NAMES if "postcopy" in name]

# The vCPU has it, and QEMU under TCG loads a guest without it.
GONE = "PMCCNTR_EL0"
PROFILE = f'[[rule]]\nkind="remove"\nregister="{GONE}"\nreason="to see it go"\n'
POLICY = RewritePolicy(
    Destination(profile=Profile.parse(PROFILE.encode(), "p.toml")),
    Knowledge(),
    return_path=ReturnPathPolicy.OPTIONAL,
    postcopy=PostcopyPolicy.SOURCES_10_2,
)


def pieces(wire: bytes, seed: int | None) -> list[bytes]:
    """The stream at once, or cut at random: bytes, headers, pages, receive buffers."""
    if seed is None:
        return [wire]
    chance = random.Random(seed)
    out, at = [], 0
    while at < len(wire):
        size = chance.choice([1, 7, 100, 4096, 65536])
        out.append(wire[at : at + size])
        at += size
    return out


def facts(wire: bytes, seed: int | None) -> tuple[list[str], dict[str, int], bytes]:
    """What a stream consists of, its RAM blocks, and all bytes that came out."""
    parser = StreamParser()
    census: RamCensus | None = None
    kinds, out = [], b""
    for chunk in pieces(wire, seed):
        for event in parser.feed(chunk):
            out += event.raw
            if isinstance(event, events.BulkData) and event.idstr == "ram":
                census = census or RamCensus(parser.page_size, parser.block_fields)
                census.feed(event.raw)
            elif isinstance(event, events.SectionHeader):
                kinds.append(f"{event.type.name} {event.idstr}")
            elif not isinstance(event, events.BulkData | events.Opaque):
                kinds.append(type(event).__name__)
    parser.finish()
    assert census is not None
    return kinds, {block.name: block.size for block in census.blocks}, out


@pytest.mark.parametrize("name", NAMES)
def test_whole_and_in_pieces(name: str) -> None:
    wire = recorded.load_mode(name)
    kinds, blocks, out = facts(wire, None)
    assert out == wire
    for seed in (1, 2):
        assert facts(wire, seed) == (kinds, blocks, wire)
    # Whatever each block's entry had beside them, the sizes are those of the machine.
    guest = {"mach-virt.ram", "m0"} & set(blocks)
    assert [blocks[name] for name in guest] == [32 * MIB]
    assert (blocks["virt.flash0"], blocks["virt.flash1"]) == (64 * MIB, 64 * MIB)
    assert kinds[-1] == ("Package" if name in POSTCOPY else "DeviceTail")
    assert ("EarlySection" in kinds) == name.startswith("virtio-mem")
    assert ("START dirty-bitmap" in kinds) == name.startswith("dirty-bitmaps")
    assert ("END ram" in kinds) == (name not in POSTCOPY and not name.startswith("background-snapshot"))


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in POSTCOPY])
def test_a_register_less_and_nothing_else_moves(name: str, step: int | None) -> None:
    wire = recorded.load_mode(name)
    rewriter = StreamRewriter(POLICY)
    out = b"".join(bytes(buffer) for chunk in pieces(wire, step) for buffer in rewriter.feed(chunk))
    rewriter.finish()
    assert rewriter.phase is Phase.RELEASED
    assert rewriter.report is not None
    assert rewriter.report.plan.outcome is Outcome.LOADS_REWRITTEN
    before, after = (
        next(event for event in StreamParser().feed(data) if isinstance(event, events.DeviceTail))
        for data in (wire, out)
    )
    assert out[: after.offset] == wire[: before.offset]
    assert after.early == before.early
    (old,), (new,) = registers_of(before, StreamLimits()), registers_of(after, StreamLimits())
    assert set(old.registers) - set(new.registers) == {id_of(GONE)}
    for one, other in zip(before.sections, after.sections, strict=True):
        if one.device.name != "cpu":
            assert after.raw[other.start : other.end] == before.raw[one.start : one.end]


@pytest.mark.parametrize("name", POSTCOPY)
def test_a_package_loses_a_register_and_nothing_else(name: str) -> None:
    wire = recorded.load_mode(name)
    rewriter = StreamRewriter(POLICY)
    out = b"".join(bytes(buffer) for chunk in pieces(wire, 1) for buffer in rewriter.feed(chunk))
    assert (rewriter.phase, rewriter.forced) == (Phase.RELEASED, None)
    (package,) = [event for event in StreamParser().feed(wire) if isinstance(event, events.Package)]
    (again,) = [event for event in StreamParser().feed(out) if isinstance(event, events.Package)]
    assert out[: again.offset - 4] == wire[: package.offset - 4]
    assert len(again.raw) == len(package.raw) - 16
    assert out[again.offset + len(again.raw) :] == wire[package.offset + len(package.raw) :]
    found = []
    for event in (package, again):
        raw = bytes(event.raw)
        sections = cut_package(raw, event.offset, 100)
        (cpu,) = vcpus_in(raw, sections, event.offset, StreamLimits()).values()
        found.append(set(cpu.cpregs.ids))
    assert found[0] - found[1] == {id_of(GONE)}
