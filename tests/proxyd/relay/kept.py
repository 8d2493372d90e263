"""Two plain connections with a relay's ends of both, and a keeper of file descriptors that tests look into."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from proxyd.relay.channel import SocketLeg
from tests.proxyd.relay.wires import a_door, connect, reset


class MemoryStore:
    """A :class:`proxyd.relay.keeping.DescriptorStore` that gives back what it has."""

    def __init__(self, *, takes: bool = True) -> None:
        self.kept: dict[str, tuple[int, ...]] = {}
        self.forgotten: list[str] = []
        self.takes = takes
        self.error: BaseException | None = None

    async def keep(self, name: str, descriptors: Sequence[int]) -> bool:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        if self.takes:
            self.kept[name] = (*self.kept.get(name, ()), *map(os.dup, descriptors))
        return self.takes

    def forget(self, name: str) -> None:
        self.forgotten.append(name)
        for descriptor in self.kept.pop(name, ()):
            os.close(descriptor)

    def give(self) -> dict[str, tuple[int, ...]]:
        """As to the next process, in another order: nobody promises one."""
        return {name: tuple(reversed([os.dup(one) for one in found])) for name, found in self.kept.items()}

    def close(self) -> None:
        for name in list(self.kept):
            self.forget(name)


class Ends:
    """QEMU's ends and proxyd's ends of two connections."""

    def __init__(
        self, source: SocketLeg, destination: SocketLeg, qemu: trio.SocketStream, towards: trio.SocketStream
    ) -> None:
        self.source = source
        self.destination = destination
        self.qemu_source = qemu
        self.qemu_destination = towards


async def _a_pair() -> tuple[SocketLeg, trio.SocketStream]:
    async with a_door() as door:
        peer = await connect(door.host, door.port)
        accepted = await door.next()
        return SocketLeg.take(accepted), peer


@asynccontextmanager
async def ends() -> AsyncIterator[Ends]:
    source, qemu_source = await _a_pair()
    destination, qemu_destination = await _a_pair()
    one = Ends(source, destination, qemu_source, qemu_destination)
    try:
        yield one
    finally:
        for stream in (qemu_source, qemu_destination):
            reset(stream)
        source.close()
        destination.close()
