"""The guest that watches its RAM sees what it is there for: pages that are lost, stale or damaged in a stream."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.qemu.cells import Bench
from tests.qemu.machine import machine
from tests.qemu.versions import QEMU_10_0

pytestmark = pytest.mark.qemu

PAGE = 4096
WORDS = PAGE // 8
FIRST = 0x40400000
TURN = 4
"""All as in tests/guest/patterns.c."""

CPU = "cortex-a57"
EVENTS = {"capability": "events", "state": True}
STILL = 3
"""A page that is never written again."""

FULL = (0, 4, 8, 12)
"""Pages that are written anew every fourth round, one of them in each."""


def content(page: int, generation: int) -> bytes:
    """Return what a page of words that are all new holds."""
    first = (generation << 32) + page * WORDS + 1
    return struct.pack(f"<{WORDS}Q", *((first + i) * 0x9E3779B97F4A7C15 % (1 << 64) for i in range(WORDS)))


def newest(stream: bytes, page: int) -> int:
    """Return the generation of *page* in the stream."""
    places = {stream.rfind(content(page, generation)): generation for generation in range(TURN, 400)}
    assert max(places) > 0, f"page {page} is not in the stream"
    return places[max(places)]


def untouched(stream: bytes) -> bytes:
    return stream


def damaged(stream: bytes) -> bytes:
    """One bit of the last word of a page that is sent once."""
    whole = content(STILL, 0)
    assert stream.count(whole) == 1
    return stream.replace(whole, whole[:-1] + bytes([whole[-1] ^ 1]))


def lost(stream: bytes) -> bytes:
    """The page is as the destination's RAM was before."""
    return stream.replace(content(STILL, 0), bytes(PAGE))


def stale(stream: bytes) -> bytes:
    """Pages are as they were four rounds earlier, which is what a pass of the migration that came last would leave.

    All but one of them stay so for a whole round.
    """
    for page in FULL:
        generation = newest(stream, page)
        stream = stream.replace(content(page, generation), content(page, generation - TURN))
    return stream


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (untouched, {"ok"}),
        (damaged, {f"wrong {FIRST + STILL * PAGE + PAGE - 8:#x}"}),
        (lost, {f"wrong {FIRST + STILL * PAGE:#x}"}),
        (stale, {f"wrong {FIRST + page * PAGE:#x}" for page in FULL}),
    ],
    ids=lambda parameter: getattr(parameter, "__name__", ""),
)
async def test_guest_names_the_first_wrong_address(
    bench: Bench, tmp_path: Path, change: Callable[[bytes], bytes], says: set[str]
) -> None:
    path = tmp_path / "stream"
    async with machine("source", QEMU_10_0, bench.guest, cpu=CPU) as source:
        await source.ticks(20)
        await source.qmp.execute("migrate-set-capabilities", capabilities=[EVENTS])
        # Stopped first: each page is in the stream once, and the round is known.
        await source.qmp.execute("stop")
        await source.qmp.execute("migrate", uri=f"exec:cat >{path}")
        assert await source.migration_end() == "completed"
    path.write_bytes(change(path.read_bytes()))
    async with machine("destination", QEMU_10_0, bench.guest, cpu=CPU, destination=True) as destination:
        await destination.qmp.execute("migrate-set-capabilities", capabilities=[EVENTS])
        await destination.qmp.execute("migrate-incoming", uri=f"exec:cat {path}")
        assert await destination.migration_end() == "completed"
        await destination.qmp.execute("cont")  # it was stopped, so it still is
        await destination.ticks(3)
        # Stopped in the middle of a round, of which a part was good; the next is whole.
        _, said = destination.serial.decode().split("\n")[2].split(" ", 1)
        assert said in says
