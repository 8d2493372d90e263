"""Stand-ins for QEMU at both ends: sources of recorded streams, and a destination that knows what must arrive."""

from __future__ import annotations

import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import trio

from tests.load.streams import arriving

SHUT_0 = struct.pack(">HHI", 1, 4, 0)
PATIENCE_S = 120
LISTENERS = 512

_RECEIVE = 1 << 18


class Destination:
    """Listens on the loopback. ``arrived`` counts the streams that came whole, ``wrong`` has what did not."""

    def __init__(self, listener: trio.SocketListener, *, reads: bool) -> None:
        self.port: int = listener.socket.getsockname()[1]
        self.arrived = 0
        self.connected = 0
        self.wrong: list[str] = []
        self._reads = reads
        self._listener = listener
        self._whole = {len(data): data for data in arriving().values()}
        assert len(self._whole) == len(arriving()), "each stream has a length of its own"

    async def serve(self) -> None:
        """Until it is cancelled."""
        await trio.serve_listeners(self._take, [self._listener])

    async def _take(self, stream: trio.SocketStream) -> None:
        self.connected += 1
        if not self._reads:
            await trio.sleep_forever()
        data = bytearray()
        with suppress(trio.BrokenResourceError):
            while chunk := await stream.receive_some(_RECEIVE):
                data += chunk
                if self._whole.get(len(data)) == data:
                    self.arrived += 1
                    await stream.send_all(SHUT_0)
                    await stream.receive_some()
                    return
        # Sources that are cut, in the scenarios that have them, do not send as much as any migration has.
        if len(data) >= min(self._whole):
            self.wrong.append(f"{len(data)} bytes that are no stream")


@asynccontextmanager
async def a_destination(*, reads: bool = True) -> AsyncIterator[Destination]:
    """One that takes all that comes, or one that never reads."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=LISTENERS)
    destination = Destination(listener, reads=reads)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(destination.serve)
        yield destination
        nursery.cancel_scope.cancel()


async def connected(port: int, address: str) -> trio.SocketStream:
    """A connection from ``address``."""
    sock = trio.socket.socket()
    await sock.bind((address, 0))
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def migrate(port: int, stream: bytes, address: str = "127.0.0.9") -> float:
    """One good migration, from connect to its verdict. Returns how many seconds it took.

    Raises AssertionError if the verdict is not that the guest runs.
    """
    began = time.monotonic()
    with trio.fail_after(PATIENCE_S):
        async with await connected(port, address) as connection:
            answer = b""
            with suppress(trio.BrokenResourceError):
                await connection.send_all(stream)
            with suppress(trio.BrokenResourceError):
                while len(answer) < len(SHUT_0) and (chunk := await connection.receive_some()):
                    answer += chunk
    assert answer == SHUT_0, f"SHUT(0) expected, found {answer!r}"
    return time.monotonic() - began


async def send_for_ever(port: int, pieces: Iterator[bytes], address: str) -> float:
    """Send until the connection breaks. Returns how many bytes were taken by then."""
    sent = 0.0
    async with await connected(port, address) as connection:
        with suppress(trio.BrokenResourceError):
            for piece in pieces:
                await connection.send_all(piece)
                sent += len(piece)
    return sent


async def drip(port: int, first: bytes, then: bytes, pause_s: float, address: str) -> float:
    """Send ``first`` at once and ``then`` byte by byte. Returns seconds until it was cut off."""
    async with await connected(port, address) as connection:
        await connection.send_all(first)
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drip, connection, then, pause_s)
            with suppress(trio.BrokenResourceError):
                await connection.receive_some()
            nursery.cancel_scope.cancel()
        return time.monotonic() - began


async def _drip(connection: trio.SocketStream, data: bytes, pause_s: float) -> None:
    with suppress(trio.BrokenResourceError):
        for byte in data:
            await trio.sleep(pause_s)
            await connection.send_all(bytes([byte]))
    await trio.sleep_forever()
