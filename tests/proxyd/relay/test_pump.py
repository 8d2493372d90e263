"""One direction of an opaque channel: in the kernel between two sockets, copied otherwise."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Any

import pytest
import trio

from proxyd.relay.channel import SocketLeg
from proxyd.relay.pump import TakerGone, pump
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
