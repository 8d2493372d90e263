"""Dialling, and the eye that is kept on the source meanwhile. In memory, on a mock clock."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from proxyd.endpoint import Address, Dialled, UnixPath
from proxyd.relay.channel import DestinationUnreachable, Leg
from proxyd.relay.dialling import dial_destination, watched
from proxyd.relay.tls_leg import HandshakeFailed
from proxyd.tls import ClientTls
from tests.proxyd.relay.legs import MemoryLeg, leg_pair
from tests.proxyd.relay.stage import a_route


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


SOMEWHERE = Address("192.0.2.1", 4444)


async def dial_with(secure: Any, towards: Dialled = SOMEWHERE, *, tls: bool = True) -> Leg:
    """Dial a destination whose TLS leg is ``secure``'s business."""
    leg, _ = leg_pair("proxyd", "destination:2")

    async def dialler(_towards: Dialled, _seconds: float) -> Leg:
        await trio.lowlevel.checkpoint()
        return leg

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    route = replace(a_route(connect_s=7), destination_tls=ClientTls(context=context, hostname=None) if tls else None)
    return await dial_destination(towards, route, dialler, secure)


@pytest.mark.parametrize(("towards", "host"), [(SOMEWHERE, "192.0.2.1"), (UnixPath("/run/qemu/in.sock"), "")])
async def test_a_tls_leg_is_told_whose_certificate_it_wants(
    towards: Dialled, host: str, autojump_clock: MockClock
) -> None:
    asked: list[str] = []

    async def secure(leg: Leg, _tls: ClientTls, name: str) -> Leg:
        await trio.lowlevel.checkpoint()
        asked.append(name)
        return leg

    assert (await dial_with(secure, towards)).peer == "destination:2"
    assert asked == [host]
    assert (await dial_with(secure, towards, tls=False)).peer == "destination:2"
    assert len(asked) == 1


async def test_a_handshake_that_fails_or_lasts(autojump_clock: MockClock) -> None:
    async def refuse(*_: Any) -> Leg:
        await trio.lowlevel.checkpoint()
        raise HandshakeFailed("somebody else")

    async def last(*_: Any) -> Leg:
        await trio.sleep_forever()

    with pytest.raises(DestinationUnreachable, match=r"^destination 192\.0\.2\.1:4444: somebody else$"):
        await dial_with(refuse)
    with pytest.raises(DestinationUnreachable, match=r"no TLS handshake in 7 s \(limits\.connect_time_s\)$"):
        await dial_with(last)
