"""What sources send: recorded streams with what must arrive of them, and streams that never end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination
from proxyd.rewrite.policy import RewritePolicy
from proxyd.rewrite.rewriter import StreamRewriter
from tests import builders, recorded

CPU = "neoverse-n1"
KERNEL = "7.3"
NAMES = tuple(name for name in recorded.names() if f"-{CPU}-returnpath-" in name)

PIECE = 1 << 16
RAM_ID = 2


@cache
def arriving() -> dict[bytes, bytes]:
    """What the destination must get of each stream: what the same rules make of it without any network."""
    policy = RewritePolicy(
        Destination(HostDescription.parse(recorded.host_json(KERNEL, CPU), KERNEL)), Knowledge.builtin()
    )
    found = {}
    for name in NAMES:
        rewriter = StreamRewriter(policy)
        found[recorded.load(name)] = b"".join(bytes(buffer) for buffer in rewriter.feed(recorded.load(name)))
    assert any(sent != got for sent, got in found.items()), "at least one stream is to be rewritten"
    return found


def prologue() -> bytes:
    """Everything before the first section."""
    return builders.MAGIC + builders.configuration() + builders.OPEN_RETURN_PATH + builders.PING


def memory() -> bytes:
    """A prologue and a little RAM."""
    return prologue() + builders.ram()


def section_header(number: int) -> bytes:
    """How a device section begins."""
    return b"\x04" + builders.be32(number) + builders.counted(b"device") + builders.be32(0) + builders.be32(1)


def endless_prologue() -> Iterator[bytes]:
    """Commands and no section."""
    yield prologue()
    while True:
        yield builders.PING * 1000


def endless_sections() -> Iterator[bytes]:
    """Device sections of a few bytes, and no end of them."""
    yield memory()
    number = 100
    while True:
        yield b"".join(section_header(n) + b"state" + builders.footer(n) for n in range(number, number + 1000))
        number += 1000


def endless_starts() -> Iterator[bytes]:
    """Iterative sections that begin, each with a number of its own."""
    yield prologue()
    number = RAM_ID
    setup = builders.mem_size({b"mach-virt.ram": 1 << 24}) + builders.EOS
    while True:
        yield b"".join(builders.start(n, setup, instance=n) for n in range(number, number + 500))
        number += 500


def endless_device() -> Iterator[bytes]:
    """One device whose state does not end."""
    yield memory() + section_header(100)
    while True:
        yield bytes(PIECE)


def endless_candidates() -> Iterator[bytes]:
    """One device whose state looks like the beginning of a vmdesc, again and again."""
    yield memory() + section_header(100)
    while True:
        yield b"\x00\x06\x00\x00\x00\x40{ " * (PIECE // 8)


def endless_memory() -> Iterator[bytes]:
    """RAM, for ever."""
    yield prologue() + builders.start(RAM_ID, builders.mem_size({b"mach-virt.ram": 1 << 24}) + builders.EOS)
    named = builders.page(0, block=b"mach-virt.ram")
    body = b"".join(builders.page(n * builders.PAGE) for n in range(1, 64))
    while True:
        yield builders.part(RAM_ID, named + body + builders.EOS)


ENDLESS = {
    "prologue": endless_prologue,
    "sections": endless_sections,
    "starts": endless_starts,
    "device": endless_device,
    "candidates": endless_candidates,
    "memory": endless_memory,
}
