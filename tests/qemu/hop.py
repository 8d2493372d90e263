"""A hop between two ends of a migration that carries every connection and breaks those that a test picks."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

RESET = struct.pack("ii", 1, 0)


class Hop:
    """Listens on :attr:`port`; what connects goes on to ``towards``. :attr:`carried` is in the order of accept."""

    def __init__(self, listener: trio.SocketListener, towards: int) -> None:
        self.port = int(listener.socket.getsockname()[1])
        self.carried: list[tuple[trio.SocketStream, trio.SocketStream]] = []
        self._towards = towards

    def reset(self, number: int) -> None:
        """Break one connection, as a network does: both ends get an RST."""
        for end in self.carried[number]:
            if end.socket.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                trio.lowlevel.notify_closing(end.socket)
                end.socket.close()

    async def carry(self, near: trio.SocketStream) -> None:
        """Carry one connection until it ends."""
        far = await trio.open_tcp_stream("127.0.0.1", self._towards)
        self.carried.append((near, far))
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(_pump, near, far)
            nursery.start_soon(_pump, far, near)


async def _pump(giver: trio.SocketStream, taker: trio.SocketStream) -> None:
    try:
        while chunk := await giver.receive_some(1 << 20):
            await taker.send_all(chunk)
        await taker.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        for end in (giver, taker):
            if end.socket.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                trio.lowlevel.notify_closing(end.socket)
                end.socket.close()


@asynccontextmanager
async def hop(towards: int) -> AsyncIterator[Hop]:
    """Run a hop to 127.0.0.1:*towards*."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    one = Hop(listener, towards)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, one.carry, [listener])
        yield one
        nursery.cancel_scope.cancel()
