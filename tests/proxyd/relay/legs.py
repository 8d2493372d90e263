"""Legs in memory: two ends of a connection with FIN, RST and a bounded queue, without a socket.

What a TCP socket does under Linux, as far as the relay can see it: data that arrived before an RST can still be read;
sending to a peer that has closed or reset is an error; closing wakes whoever waits.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio


class _Wire:
    """One direction."""

    def __init__(self, capacity: int | None, *, exact: bool) -> None:
        self.capacity = capacity
        self.exact = exact  # takes not a byte more, where otherwise it takes the last buffer whole
        self.data = bytearray()
        self.ended = False  # FIN
        self.reset = False  # RST from the writer
        self.refused = False  # the reader is gone
        self.changed = trio.Event()

    def change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class MemoryLeg:
    """One end. It is a :class:`proxyd.relay.channel.Leg`, and the other end plays QEMU."""

    def __init__(self, peer: str, inbound: _Wire, outbound: _Wire) -> None:
        self.peer = peer
        self.origin = peer.partition(":")[0]
        self.is_closed = False
        self.was_aborted = False
        self.keepalives: list[bool] = []
        self._in = inbound
        self._out = outbound

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self.is_closed:
                raise trio.ClosedResourceError("closed here")
            if self._in.data:
                chunk = bytes(self._in.data[:max_bytes])
                del self._in.data[:max_bytes]
                self._in.change()
                return chunk
            if self._in.reset:
                raise trio.BrokenResourceError("connection reset by peer")
            if self._in.ended:
                return b""
            await self._in.changed.wait()

    async def receive_chunk(self) -> memoryview:
        return memoryview(await self.receive_some())

    async def receive_exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            chunk = await self.receive_some(count - len(got))
            assert chunk, f"FIN after {got!r}"
            got += chunk
        return got

    async def send_buffers(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        await trio.lowlevel.checkpoint()
        for buffer in buffers:
            pending = memoryview(buffer)
            while True:
                if self.is_closed:
                    raise trio.ClosedResourceError("closed here")
                if self._out.refused or self._in.reset:
                    raise trio.BrokenResourceError("broken pipe")
                room = len(pending) if self._out.capacity is None else self._out.capacity - len(self._out.data)
                if room > 0 and not self._out.exact:
                    room = len(pending)
                if room > 0:
                    self._out.data += pending[:room]
                    self._out.change()
                    pending = pending[room:]
                if not pending:
                    break
                await self._out.changed.wait()

    async def say(self, data: bytes) -> None:
        await self.send_buffers((data,))

    ended_cleanly = True

    async def send_eof(self, *, clean: bool = True) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_closed:
            raise trio.ClosedResourceError("closed here")
        if self._in.reset:
            raise trio.BrokenResourceError("not connected")
        self._out.ended = True
        self._out.change()

    def keepalive(self, *, on: bool) -> None:
        self.keepalives.append(on)

    def abort(self) -> None:
        if not self.is_closed:
            self.was_aborted = True
            self._out.reset = True
            self.close()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._out.ended = True
            self._in.refused = True
            self._out.change()
            self._in.change()


def leg_pair(here: str, there: str, capacity: int | None = None, *, exact: bool = False) -> tuple[MemoryLeg, MemoryLeg]:
    """A connection: the end that ``here`` holds, and the end that ``there`` holds."""
    forth, back = _Wire(capacity, exact=exact), _Wire(capacity, exact=exact)
    return MemoryLeg(there, back, forth), MemoryLeg(here, forth, back)
