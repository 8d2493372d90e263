"""A network of the tests' own between real processes: carries every connection, and breaks all of them at one byte.

The wire reads along to know where the device part or the package begins; it passes everything as it is. The bytes
before a strike are with the other side's kernel before it strikes (the queue of what is not acknowledged is empty).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import trio

from formats.errors import FormatError
from formats.events import DeviceTail, PackageHeader
from formats.parser import StreamParser

MAIN = b"QEVM"
SHUT = b"\x00\x01\x00\x04"
_LINGER = struct.pack("ii", 1, 0)
_SETTLE_S = 0.02
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)


class Landmark(StrEnum):
    """What bytes are counted from, on the main channel."""

    ACCEPTED = "accepted"
    STREAM = "stream"
    DEVICES = "devices"
    """The first byte of the device part, or of the package of a postcopy."""
    SHUT = "shut"
    """Of the return path."""


@dataclass(frozen=True, slots=True)
class Strike:
    """When a fault strikes: behind ``count`` bytes from ``landmark`` on."""

    landmark: Landmark
    count: int = 0


class _Connection:
    """One connection through the wire."""

    def __init__(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        self.ends = (near, far)

    def reset(self) -> None:
        for end in self.ends:
            if end.socket.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                trio.lowlevel.notify_closing(end.socket)
                end.socket.close()


class FaultWire:
    """Listens on :attr:`port`; what connects goes on to ``towards``."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self.port = int(listener.socket.getsockname()[1])
        self.towards = 0
        self.struck = trio.Event()
        self._listener = listener
        self._connections: list[_Connection] = []
        self._arm(None, None)

    def _arm(self, strike: Strike | None, act: Callable[[], Awaitable[None]] | None) -> None:
        self.struck = trio.Event()
        self._strike = strike
        self._act = act
        self._clear = trio.Event()
        self._clear.set()
        self._hung_up = False
        self._measure: _Measure | None = None

    def measure(self) -> Callable[[], Measured]:
        """Look at the next migration, with one connection; returns what to call behind it."""
        measure = self._measure = _Measure()

        def result() -> Measured:
            assert measure.found is not None, "no device part came"
            return measure.found

        return result

    def arm(self, towards: int, strike: Strike | None = None, act: Callable[[], Awaitable[None]] | None = None) -> None:
        """Begin anew towards 127.0.0.1:*towards*: what is left of the last migration is reset."""
        self.reset()
        self._connections = []
        self.towards = towards
        self._arm(strike, act)

    async def run(self) -> None:
        """Carry connections for ever."""
        async with trio.open_nursery() as nursery:
            await trio.serve_listeners(self._carry, [self._listener], handler_nursery=nursery)

    # What the network does.

    def reset(self) -> None:
        """RST to everybody."""
        for connection in self._connections:
            connection.reset()
        self._clear.set()

    async def hang_up(self) -> None:
        """FIN to everybody; what they send on goes nowhere."""
        self._hung_up = True
        for connection in self._connections:
            for end in connection.ends:
                with suppress(*_GONE):
                    await end.send_eof()

    def stall(self) -> None:
        """Nothing passes any more."""
        self._clear = trio.Event()

    def go_on(self) -> None:
        """End a stall."""
        self._clear.set()

    # Carrying.

    async def _carry(self, near: trio.SocketStream) -> None:
        async with near:
            try:
                far = await trio.open_tcp_stream("127.0.0.1", self.towards)
            except OSError:
                _Connection(near, near).reset()
                return
            connection = _Connection(near, far)
            self._connections.append(connection)
            strike = self._strike
            if strike is not None and strike.landmark is Landmark.ACCEPTED and not self.struck.is_set():
                await self._hit()
            async with far, trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, near, far, connection, self._measure or _Forward(strike))
                nursery.start_soon(self._pump, far, near, connection, _Back(strike))

    async def _hit(self) -> None:
        self.struck.set()
        assert self._act is not None
        await self._act()

    async def _pump(
        self, giver: trio.SocketStream, taker: trio.SocketStream, connection: _Connection, watch: _Watch
    ) -> None:
        try:
            while chunk := await giver.receive_some(1 << 18):
                await self._clear.wait()
                if self._hung_up:
                    continue
                before = None if self.struck.is_set() else watch.before_strike(chunk)
                if before is not None:
                    await taker.send_all(chunk[:before])
                    await _arrived(taker)
                    await self._hit()
                    await self._clear.wait()
                    chunk = b"" if self._hung_up else chunk[before:]
                await taker.send_all(chunk)
            await self._clear.wait()
            if not self._hung_up:
                await taker.send_eof()
        except _GONE:
            await self._clear.wait()
            connection.reset()


class _Watch:
    """Finds the byte of one direction behind which it strikes."""

    def __init__(self, strike: Strike | None) -> None:
        self._strike = strike

    def before_strike(self, chunk: bytes) -> int | None:
        """How many bytes of *chunk* go before the strike; None: all of them, and it is not there yet."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Measured:
    """Lengths that a stream turned out to have, in bytes. Where landmarks are changes with what the guest does."""

    sections: int
    """Device sections up to EOF, or a postcopy's package."""
    devices: int
    """With EOF and the vmdesc; the package again."""


class _Measure(_Watch):
    """Never strikes."""

    def __init__(self) -> None:
        super().__init__(None)
        self.found: Measured | None = None
        self._parser = StreamParser()

    def before_strike(self, chunk: bytes) -> int | None:
        for event in self._parser.feed(chunk) if self.found is None else ():
            if isinstance(event, DeviceTail):
                self.found = Measured(event.eof, len(event.raw))
            elif isinstance(event, PackageHeader):
                self.found = Measured(event.length, event.length)
        return None


class _Forward(_Watch):
    def __init__(self, strike: Strike | None) -> None:
        super().__init__(strike)
        self._passed = 0
        self._parser: StreamParser | None = StreamParser()
        self._landmark: int | None = None
        if strike is not None and strike.landmark is Landmark.STREAM:
            self._landmark = 0

    def before_strike(self, chunk: bytes) -> int | None:
        strike = self._strike
        if strike is None or strike.landmark not in {Landmark.STREAM, Landmark.DEVICES}:
            return None
        if self._passed < 4 and not MAIN.startswith(chunk[:4]) and not chunk.startswith(MAIN):
            self._strike = None  # another channel
            return None
        if self._landmark is None:
            self._look(chunk)
        start = self._passed
        self._passed += len(chunk)
        if self._landmark is None or self._landmark + strike.count > self._passed:
            return None
        return max(0, self._landmark + strike.count - start)

    def _look(self, chunk: bytes) -> None:
        if self._parser is None:
            return
        try:
            for event in self._parser.feed(chunk):
                if isinstance(event, PackageHeader):
                    self._landmark = event.offset + len(event.raw)
                    self._parser = None
                    return
        except FormatError:
            self._parser = None
            return
        self._landmark = self._parser.tail_offset


class _Back(_Watch):
    def before_strike(self, chunk: bytes) -> int | None:
        strike = self._strike
        if strike is None or strike.landmark is not Landmark.SHUT:
            return None
        # SHUT is said in one piece, and the last thing said.
        at = chunk.find(SHUT)
        return None if at < 0 else at + strike.count


async def _arrived(stream: trio.SocketStream) -> None:
    """Wait until the peer's kernel has everything, and give the peer the time to take it."""
    while stream.socket.fileno() >= 0:
        queued = fcntl.ioctl(stream.socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        if queued == b"\0\0\0\0":
            break
        await trio.sleep(0.002)
        if await _is_stuck(stream):
            break
    await trio.sleep(_SETTLE_S)


async def _is_stuck(stream: trio.SocketStream) -> bool:
    """Whether the peer reads no more."""
    return stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1  # TCP_ESTABLISHED
