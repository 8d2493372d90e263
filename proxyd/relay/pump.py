"""One direction of a channel whose bytes mean nothing to proxyd: from one leg to the other, until the end.

Between two plain sockets the bytes stay in the kernel: ``splice(2)`` from one socket into a pipe and from the pipe into
the other. It takes about the CPU of a copy in large blocks (``docs/decisions/0010-transport.md``), but none of the
process's memory: a copy that is as cheap wants megabytes for each of up to 255 channels. Legs that have to be decrypted
or encrypted are copied.

That the bytes on their way are the kernel's has another use: a channel whose sockets and pipes are in the service
manager's hands as well survives this process (:mod:`.keeping`).

The main channel is not pumped before its commit point, even where nothing in it is rewritten: its bytes are looked at,
and for that they have to be here (``docs/decisions/0010-transport.md``).
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, Self

from proxyd.relay.channel import GONE, Leg, SocketLeg
from proxyd.relay.inspection import Inspection
from proxyd.relay.transport import Buffer

_INT: Final = struct.Struct("i")

# A pipe of this size takes what one multifd packet brings (512 KiB of pages, migration/multifd.h). Where the system
# gives less (fs.pipe-user-pages-soft, once a user has many), it stays at 64 KiB or a page: more turns, same bytes.
PIPE_BYTES: Final = 512 << 10


class TakerGone(Exception):
    """The leg that takes is gone, the one that gives is not. ``__cause__`` is what it raised."""


class Pipe:
    """A kernel pipe: the bytes of one direction that have left one socket and not reached the other.

    :raises OSError: there are no file descriptors left.
    """

    def __init__(self, read_end: int, write_end: int) -> None:
        self.read_end = read_end
        self.write_end = write_end

    @classmethod
    def open(cls) -> Self:
        """A new one, as large as the system makes them: 64 KiB."""
        return cls(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))

    def widen(self) -> None:
        """For bulk: :data:`PIPE_BYTES`, if the system gives them."""
        with suppress(PermissionError):
            fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @property
    def held(self) -> int:
        """How many bytes are in it."""
        return int(_INT.unpack(fcntl.ioctl(self.read_end, termios.FIONREAD, bytes(_INT.size)))[0])

    def close(self) -> None:
        """Throw away what is in it, unless another process has it as well."""
        os.close(self.read_end)
        os.close(self.write_end)


@contextmanager
def plain_pipes(source: Leg, destination: Leg) -> Iterator[tuple[Pipe, Pipe] | None]:
    """Pipes for both directions of a channel, forth and back; None if a leg is not a plain socket.

    What goes back is little, and what goes forth on a main channel as well, but for a postcopy: whoever knows of more
    widens one.
    """
    if not (isinstance(source, SocketLeg) and isinstance(destination, SocketLeg)):
        yield None
        return
    with ExitStack() as opened:
        forth = Pipe.open()
        opened.callback(forth.close)
        back = Pipe.open()
        opened.callback(back.close)
        yield forth, back


async def pump(
    giver: Leg,
    taker: Leg,
    moved: Callable[[int], None],
    pipe: Pipe | None = None,
    look: Callable[[bytes], None] | None = None,
    inspection: Inspection | None = None,
) -> None:
    """Carry everything that comes, until FIN.

    :param moved: hears of each piece that was delivered, in bytes.
    :param pipe: for two plain sockets; what is in it goes first. Without one, a pipe of its own.
    :param look: is shown each piece before it is delivered.
    :param inspection: is shown what it asks for before it is delivered. What it raises ends the pump.

    Error handling: raises what the giver raises, and :class:`TakerGone`; an unknown part of the last piece was
    delivered then.
    """
    if not (isinstance(giver, SocketLeg) and isinstance(taker, SocketLeg)):
        await _copy(giver, taker, moved, look, inspection)
    elif pipe is not None:
        await _splice(giver, taker, pipe, moved, look, inspection)
    else:
        pipe = Pipe.open()
        pipe.widen()
        try:
            await _splice(giver, taker, pipe, moved, look, inspection)
        finally:
            pipe.close()


async def drain(giver: Leg, look: Callable[[bytes], None] | None = None) -> None:
    """Read until FIN and drop it: there is nobody left to take it. Raises what the giver raises."""
    while chunk := await giver.receive_some():
        if look is not None:
            look(chunk)


async def _copy(
    giver: Leg,
    taker: Leg,
    moved: Callable[[int], None],
    look: Callable[[bytes], None] | None,
    inspection: Inspection | None,
) -> None:
    while True:
        chunk: Buffer
        if look is None:
            chunk = await giver.receive_chunk()
            if inspection is not None:
                inspection.look(chunk)
        else:
            chunk = await giver.receive_some()
            look(chunk)
        size = len(chunk)
        if not size:
            return
        try:
            await taker.send_buffers((chunk,))
        except GONE as error:
            raise TakerGone from error
        del chunk  # a view that is left would cost the next chunk a buffer of its own
        moved(size)


async def _splice(
    giver: SocketLeg,
    taker: SocketLeg,
    pipe: Pipe,
    moved: Callable[[int], None],
    look: Callable[[bytes], None] | None,
    inspection: Inspection | None,
) -> None:
    size = pipe.held  # what a process before this one has left
    while True:
        if size:
            try:
                await taker.splice_from(pipe.read_end, size)
            except GONE as error:
                raise TakerGone from error
            moved(size)
        # The pipe is empty before each turn, so a splice into it waits for the socket alone.
        if look is not None:
            size = await giver.splice_looking(pipe.write_end, look)
        elif inspection is None:
            size = await giver.splice_into(pipe.write_end, PIPE_BYTES)
        elif inspection.unseen:
            size = await giver.splice_into(pipe.write_end, min(inspection.unseen, PIPE_BYTES))
            inspection.passed(size)
        else:
            size = await giver.splice_looking(pipe.write_end, inspection.look, inspection.wanted)
        if not size:
            return
