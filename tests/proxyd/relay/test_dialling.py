"""Dialling, and the eye that is kept on the source meanwhile. In memory, on a mock clock."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from proxyd.relay.channel import DestinationUnreachable, Leg
from proxyd.relay.dialling import watched
from tests.proxyd.relay.legs import MemoryLeg, leg_pair


async def after(seconds: float, leg: MemoryLeg | None) -> Leg:
    await trio.sleep(seconds)
    if leg is None:
        raise DestinationUnreachable("nobody is there")
    return leg


async def test_a_source_that_stays(autojump_clock: MockClock) -> None:
    _qemu, source = leg_pair("source:1", "proxyd")
    there, _ = leg_pair("proxyd", "destination:2")
    gone: list[float] = []
    assert await watched(source, after(5, there), lambda: gone.append(0), fin=True) is there
    assert not gone


async def test_a_destination_that_nobody_answers_at(autojump_clock: MockClock) -> None:
    _qemu, source = leg_pair("source:1", "proxyd")
    with pytest.raises(DestinationUnreachable, match="nobody is there"):
        await watched(source, after(5, None), lambda: None, fin=True)


@pytest.mark.parametrize(("how", "fin", "noticed"), [("fin", True, True), ("fin", False, False), ("rst", False, True)])
async def test_a_source_that_leaves(how: str, fin: bool, noticed: bool, autojump_clock: MockClock) -> None:
    qemu, source = leg_pair("source:1", "proxyd")
    there, _ = leg_pair("proxyd", "destination:2")
    await qemu.say(b"pages that nobody has read yet")
    gone: list[float] = []

    async def leave() -> None:
        await trio.sleep(1)
        if how == "fin":
            await qemu.send_eof()
        else:
            qemu.abort()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await watched(source, after(5, there), lambda: gone.append(trio.current_time()), fin=fin)
    assert len(gone) == int(noticed)
