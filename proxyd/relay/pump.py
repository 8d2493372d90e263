"""One direction of a channel whose bytes mean nothing to proxyd: from one leg to the other, until the end.

Between two plain sockets the bytes stay in the kernel: ``splice(2)`` from one socket into a pipe and from the pipe into
the other. It takes about the CPU of a copy in large blocks (``docs/decisions/0010-transport.md``), but none of the
process's memory: a copy that is as cheap wants megabytes for each of up to 255 channels. Legs that have to be decrypted
or encrypted are copied.

The main channel is not pumped, even where nothing in it is rewritten: its bytes are looked at, and for that they have
to be here (``docs/decisions/0010-transport.md``).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from proxyd.relay.channel import Leg, SocketLeg

# A pipe of this size takes what one multifd packet brings (512 KiB of pages, migration/multifd.h). Where the system
# gives less (fs.pipe-user-pages-soft, once a user has many), it stays at 64 KiB or a page: more turns, same bytes.
PIPE_BYTES: Final = 512 << 10


async def pump(source: Leg, destination: Leg, moved: Callable[[int], None]) -> None:
    """Carry everything that comes, until FIN. ``moved`` hears of each piece, in bytes.

    Error handling: raises what the legs raise; an unknown part of the last piece was delivered then.
    """
    if isinstance(source, SocketLeg) and isinstance(destination, SocketLeg):
        await _splice(source, destination, moved)
    else:
        await _copy(source, destination, moved)


async def _copy(source: Leg, destination: Leg, moved: Callable[[int], None]) -> None:
    while True:
        chunk = await source.receive_chunk()
        size = len(chunk)
        if not size:
            return
        await destination.send_buffers((chunk,))
        del chunk  # a view that is left would cost the next chunk a buffer of its own
        moved(size)


async def _splice(source: SocketLeg, destination: SocketLeg, moved: Callable[[int], None]) -> None:
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with suppress(PermissionError):
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        # The pipe is empty before each turn, so a splice into it waits for the socket alone.
        while size := await source.splice_into(write_end, PIPE_BYTES):
            await destination.splice_from(read_end, size)
            moved(size)
    finally:
        os.close(read_end)
        os.close(write_end)
