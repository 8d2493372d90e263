"""One direction of an opaque channel: in the kernel between two sockets, copied otherwise."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import Any

import pytest
import trio

from proxyd.relay.channel import Leg, SocketLeg
from proxyd.relay.inspection import Inspection
from proxyd.relay.pump import TakerGone, pump
from proxyd.rewrite.firewall import Finding, FirewallMode, FirewallPolicy
from proxyd.rewrite.refusal import RewriteRefused
from tests import builders as b
from tests.proxyd.relay.legs import leg_pair
from tests.proxyd.relay.wires import a_door, connect, read_to_fin, reset


async def a_leg(host: str = "127.0.0.1") -> tuple[SocketLeg, trio.SocketStream]:
    """A leg, and the peer that plays QEMU."""
    async with a_door(host) as door:
        peer = await connect(door.host, door.port)
        accepted = await door.next()
        return SocketLeg.take(accepted), peer


async def test_everything_arrives_and_is_counted_between_sockets() -> None:
    (source, qemu_source), (destination, qemu_destination) = await a_leg(), await a_leg()
    data = os.urandom(3 << 20)
    moved: list[int] = []
    got = b""

    async def read() -> None:
        nonlocal got
        got = await read_to_fin(qemu_destination)

    async def write() -> None:
        await qemu_source.send_all(data)
        await qemu_source.send_eof()

    before = len(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(write)
        await pump(source, destination, moved.append)
        await destination.send_eof()
    assert got == data
    assert sum(moved) == len(data)
    assert len(os.listdir("/proc/self/fd")) == before, "the pipe is closed"
    for end in (source, destination):
        end.close()
    await qemu_source.aclose()
    await qemu_destination.aclose()


async def test_a_smaller_pipe_carries_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EPERM, "too many pipe pages")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    await test_everything_arrives_and_is_counted_between_sockets()


async def test_a_peer_that_resets_breaks_the_pump() -> None:
    (source, qemu_source), (destination, qemu_destination) = await a_leg(), await a_leg()
    reset(qemu_source)
    with pytest.raises(trio.BrokenResourceError):
        await pump(source, destination, lambda _size: None)
    source.abort()
    (source, qemu_source) = await a_leg()
    reset(qemu_destination)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_flood, qemu_source)
        with pytest.raises(TakerGone) as caught:
            await pump(source, destination, lambda _size: None)
        assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
        nursery.cancel_scope.cancel()
    source.abort()
    destination.abort()
    await qemu_source.aclose()


async def _flood(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(bytes(65536))


async def test_a_leg_that_is_closed_here_ends_the_pump() -> None:
    (source, qemu_source), (destination, qemu_destination) = await a_leg(), await a_leg()
    source.close()
    with pytest.raises(trio.ClosedResourceError):
        await pump(source, destination, lambda _size: None)
    (source, other) = await a_leg()
    await other.send_all(b"x")
    destination.close()
    with pytest.raises(TakerGone) as caught:
        await pump(source, destination, lambda _size: None)
    assert isinstance(caught.value.__cause__, trio.ClosedResourceError)
    source.close()
    for peer in (qemu_source, qemu_destination, other):
        await peer.aclose()


async def test_other_legs_are_copied() -> None:
    qemu_source, source = leg_pair("source:1", "proxyd")
    destination, qemu_destination = leg_pair("proxyd", "destination:2")
    moved: list[int] = []
    await qemu_source.say(b"pages")
    await qemu_source.send_eof()
    await pump(source, destination, moved.append)
    assert await qemu_destination.receive_some() == b"pages"
    assert moved == [5]


CHANNEL = b"".join(b.multifd_packet(n) + os.urandom(n * b.PAGE) for n in (128, 1, 0, 128, 77))
BAD = b.multifd_packet(1, flags=b.MULTIFD_ZSTD, size=1 << 30)


async def _inspected(data: bytes, mode: FirewallMode, *, plain: bool) -> tuple[bytes, list[Finding]]:
    """What arrives of ``data``, between sockets or over a leg in memory."""
    found: list[Finding] = []
    inspection = Inspection(FirewallPolicy(mode), b.PAGE, found.append)
    (destination, qemu) = await a_leg()
    got = b""

    async def read() -> None:
        nonlocal got
        got = await read_to_fin(qemu)

    async def write(peer: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # nobody reads behind a refusal
            for at in range(0, len(data), 100_000):
                await peer.send_all(data[at : at + 100_000])
            await peer.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        if plain:
            source, peer = await a_leg()
            nursery.start_soon(write, peer)
            await _pumped(source, destination, inspection)
            source.close()
            await peer.aclose()
        else:
            there, memory = leg_pair("source:1", "proxyd")
            await there.say(data)
            await there.send_eof()
            await _pumped(memory, destination, inspection)
        await destination.send_eof()
    destination.close()
    await qemu.aclose()
    return got, found


async def _pumped(giver: Leg, taker: SocketLeg, inspection: Inspection) -> None:
    with suppress(RewriteRefused):
        await pump(giver, taker, lambda _size: None, inspection=inspection)


@pytest.mark.parametrize("plain", [True, False])
async def test_inspected_packets_arrive_as_they_were(plain: bool) -> None:
    assert await _inspected(CHANNEL, FirewallMode.DENY, plain=plain) == (CHANNEL, [])
    told = CHANNEL + BAD + bytes(1 << 20)
    got, found = await _inspected(told, FirewallMode.ALERT, plain=plain)
    assert got == told
    assert len(found) == 1


@pytest.mark.parametrize("plain", [True, False])
async def test_a_header_that_is_refused_never_arrives_whole(plain: bool) -> None:
    got, found = await _inspected(CHANNEL + BAD + CHANNEL, FirewallMode.DENY, plain=plain)
    assert (CHANNEL + BAD).startswith(got)
    assert len(got) < len(CHANNEL + BAD)
    assert len(found) == 1


async def test_pages_of_an_inspected_channel_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between sockets they stay in the kernel: only headers come here."""
    shown: list[int] = []

    def look(self: Inspection, data: bytes | memoryview) -> None:
        shown.append(len(data))
        original(self, data)

    original = Inspection.look
    monkeypatch.setattr(Inspection, "look", look)
    await _inspected(CHANNEL, FirewallMode.DENY, plain=True)
    assert sum(shown) == 5 * (320 + 8 * 128)
