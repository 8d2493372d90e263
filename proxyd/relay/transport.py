"""One plain leg of a migration: a stream with large receives, bounded queues and a reset.

What it is: a :class:`trio.abc.HalfCloseableStream` over a non-blocking socket, tuned for bulk.
:class:`trio.SocketStream` moves the same bytes, but with 64 KiB receives and 16 KiB of unsent data, at several times
the CPU per byte (``docs/decisions/0010-transport.md`` has the figures and the designs that were measured and not
taken, splice and tee among them).

What it is not: it knows nothing of streams, sections or sides. Whoever owns a leg decides when it may be written to.

Bytes that wait in the proxy are downtime that QEMU does not know of: its bandwidth estimate counts them as
transferred (``migration/migration.c: migration_update_counters``). So both queues are bounded, the one behind
``receive_some`` by ``SO_RCVBUF`` and the one before the network by ``TCP_NOTSENT_LOWAT``.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Self, TypeAlias, TypeVar

import trio

A = TypeVar("A")
T = TypeVar("T")
Buffer: TypeAlias = bytes | bytearray | memoryview

# One receive: all that the queue below can hold. What a chunk costs in Python (60 us, with the caches full of guest
# memory) is paid once per chunk: 1 MiB takes a tenth more CPU per byte, 256 KiB two thirds more.
RECEIVE_BYTES: Final = 2 << 20

# The buffer for the first chunks. It grows fourfold whenever one fills it: Python writes zeros into all of a new
# buffer, so each connection that never sends much would have 2 MiB of memory.
FIRST_RECEIVE_BYTES: Final = 64 << 10

# Asked of SO_RCVBUF; Linux doubles it for its own overhead, and about 1.9 MiB of stream fit. Left alone, autotuning
# grows to tcp_rmem's maximum: 11 MiB were parked before a slow destination. Half of this costs twice the CPU.
RECEIVE_QUEUE_BYTES: Final = 1 << 20

# TCP_NOTSENT_LOWAT: what may wait in the send queue beyond what is in flight. The process is woken when half of it is
# gone (include/net/tcp.h: __tcp_stream_memory_free), for trio's 16 KiB that is every 8 KiB. No bound at all costs 5 %
# less CPU and parks 4 MiB.
UNSENT_BYTES: Final = 1 << 20

# Missing from the socket module; include/uapi/asm-generic/socket.h, Linux 5.15. Zero means: autotune both queues.
_SO_BUF_LOCK: Final = 72

# sendmsg takes at most IOV_MAX (1024 on Linux) buffers.
_BUFFERS_PER_SEND: Final = 512

# One look at what is spliced: the return path's messages have at most 516 bytes.
LOOK_BYTES: Final = 64 << 10

_SPLICE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

# SO_LINGER with no time: close() throws away what was not delivered, and sends RST.
LINGER_NOT: Final = struct.pack("ii", 1, 0)


class BulkStream(trio.abc.HalfCloseableStream):
    """A connected TCP or UNIX socket as a trio stream. Takes over ``sock``, which must not be used elsewhere.

    A send that is cancelled or broken leaves an unknown part of its data sent: the stream is then good for
    :meth:`abort` only. Errors are trio's: :class:`trio.BrokenResourceError` with the :class:`OSError` as its cause,
    :class:`trio.ClosedResourceError`, :class:`trio.BusyResourceError` for two tasks at the same end.
    """

    def __init__(self, sock: socket.socket, *, receive_queue_bytes: int | None = None) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._buffer = bytearray()
        self._buffer_bytes = FIRST_RECEIVE_BYTES
        self._sending = False
        self._receiving = False
        self._eof_sent = False
        self.is_tcp = sock.family != socket.AF_UNIX
        if self.is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        if receive_queue_bytes is not None:
            bound_receive_queue(sock, receive_queue_bytes)

    @classmethod
    def take(cls, stream: trio.SocketStream, *, receive_queue_bytes: int | None = None) -> Self:
        """Take the socket out of what trio's listeners and connectors return; ``stream`` is closed afterwards."""
        sock = socket.socket(fileno=stream.socket.detach())
        try:
            return cls(sock, receive_queue_bytes=receive_queue_bytes)
        except OSError:
            sock.close()  # the peer went away meanwhile
            raise

    def getpeername(self) -> tuple[str, int]:
        """TCP address and port of the other side. Raises :class:`OSError` if the connection is gone already."""
        address, port = self._socket.getpeername()[:2]
        return str(address), int(port)

    def getsockname(self) -> tuple[str, int]:
        """TCP address and port of this side."""
        address, port = self._socket.getsockname()[:2]
        return str(address), int(port)

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """An option of the socket, ``size`` bytes of it. Raises :class:`OSError`."""
        return self._socket.getsockopt(level, option, size)

    def fileno(self) -> int:
        """The socket's file descriptor; -1 once it is closed."""
        return self._socket.fileno()

    def detach(self) -> socket.socket:
        """Give the socket away; this stream is closed afterwards."""
        taken = socket.socket(fileno=self._socket.detach())
        taken.setblocking(False)
        return taken

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What is there, at least one byte and at most ``max_bytes``; ``b""`` once the peer has sent its FIN."""
        size = RECEIVE_BYTES if max_bytes is None else max_bytes
        if size < 1:
            raise ValueError(f"max_bytes of at least 1 expected, found {size}")
        chunk, waited = await self._receive(self._socket.recv, size)
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return chunk

    async def receive_chunk(self) -> memoryview:
        """What is there, up to :data:`RECEIVE_BYTES`, for bulk; empty once the peer has sent its FIN.

        The chunk is in a buffer of this stream that is used again as soon as no view of it is left, and not before:
        whoever keeps one pays with a new buffer, not with changed bytes. So let go of a chunk before the next.

        Other tasks get their turn only if there is nothing yet: the send that follows is a checkpoint in any case.
        """
        if len(self._buffer) != self._buffer_bytes or _is_viewed(self._buffer):
            self._buffer = bytearray(self._buffer_bytes)
        buffer = self._buffer
        size, _ = await self._receive(self._socket.recv_into, buffer)
        if size == self._buffer_bytes < RECEIVE_BYTES:
            self._buffer_bytes = min(4 * size, RECEIVE_BYTES)
        return memoryview(buffer)[:size].toreadonly()

    async def _receive(self, attempt: Callable[[A], T], argument: A) -> tuple[T, bool]:
        """What ``attempt`` returns once there is something, and whether that had to be waited for."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receiving = True
        waited = False
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            while True:
                try:
                    received = attempt(argument)
                except BlockingIOError:
                    waited = True
                    await trio.lowlevel.wait_readable(self._socket)
                else:
                    return received, waited
        except (OSError, ValueError) as error:
            raise self._translated(error) from error
        finally:
            self._receiving = False

    async def splice_into(self, pipe: int, size: int) -> int:
        """Move what is there, at most ``size`` bytes, into an empty non-blocking pipe; 0 after the peer's FIN."""

        def splice(most: int) -> int:
            return os.splice(self._socket.fileno(), pipe, most, flags=_SPLICE)

        moved, waited = await self._receive(splice, size)
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return moved

    async def splice_looking(self, pipe: int, look: Callable[[bytes], None], size: int = LOOK_BYTES) -> int:
        """As :meth:`splice_into`; ``look`` is shown what went into the pipe, or ``b""``."""

        def splice(most: int) -> bytes:
            seen = self._socket.recv(most, socket.MSG_PEEK)
            return seen and seen[: os.splice(self._socket.fileno(), pipe, len(seen), flags=_SPLICE)]

        seen, waited = await self._receive(splice, size)
        look(seen)
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return len(seen)

    async def send_file(self, file: int, size: int) -> int:
        """Hand the next ``size`` bytes of a file to the kernel, fewer at its end. Returns how many.

        The file's position is what the kernel has taken, at every moment and for whoever shares the open file: also
        for the process that comes after this one was killed (``fs/read_write.c: do_sendfile``).
        """
        self._begin_sending()
        left = size
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            while left:
                try:
                    sent = os.sendfile(self._socket.fileno(), file, None, left)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
                else:
                    if not sent:
                        break
                    left -= sent
        except (OSError, ValueError) as error:
            raise self._translated(error) from error
        finally:
            self._sending = False
        return size - left

    async def splice_from(self, pipe: int, size: int) -> None:
        """Hand ``size`` bytes, which the pipe has, to the kernel."""
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            while size:
                try:
                    size -= os.splice(pipe, self._socket.fileno(), size, flags=_SPLICE)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
        except (OSError, ValueError) as error:
            raise self._translated(error) from error
        finally:
            self._sending = False

    async def send_all(self, data: Buffer) -> None:
        """Hand all of ``data`` to the kernel."""
        await self.send_buffers((data,))

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        """Hand all buffers to the kernel, in order, without joining them."""
        self._begin_sending()
        waited = False
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._eof_sent:
                raise trio.ClosedResourceError("the end of the stream was sent already")
            pending = [memoryview(buffer) for buffer in buffers]
            while True:
                try:
                    sent = self._socket.sendmsg(pending[:_BUFFERS_PER_SEND])
                except BlockingIOError:
                    waited = True
                    await trio.lowlevel.wait_writable(self._socket)
                else:
                    _drop_sent(pending, sent)
                    if not pending:
                        break
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()
        except OSError as error:
            raise self._translated(error) from error
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a send has room for something."""
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError("this stream was closed already")
            await trio.lowlevel.wait_writable(self._socket)
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Send a FIN; receiving goes on."""
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            if not self._eof_sent:
                self._socket.shutdown(socket.SHUT_WR)
                self._eof_sent = True
        except OSError as error:
            raise self._translated(error) from error
        finally:
            self._sending = False

    async def aclose(self) -> None:
        """Close both directions; what the kernel has taken is still delivered."""
        self._close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Reset the connection: the peer gets an RST, and nothing that is still queued here. Does nothing if closed."""
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self._close()

    def _close(self) -> None:
        # Whoever still knows this stream must not keep that: sessions are in cycles, and are collected late.
        self._buffer = bytearray()
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)  # wakes tasks that wait here, with ClosedResourceError
            self._socket.close()

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True

    def _translated(self, error: OSError | ValueError) -> Exception:
        if self._socket.fileno() < 0:  # of which splice says ValueError
            return trio.ClosedResourceError("this stream was closed already")
        return trio.BrokenResourceError(f"connection broken: {getattr(error, 'strerror', None) or error}")


def bound_receive_queue(sock: socket.socket | trio.socket.SocketType, wanted: int = RECEIVE_QUEUE_BYTES) -> bool:
    """Let the kernel queue about twice ``wanted`` bytes before the peer has to wait; whether that was possible.

    Best done to the listening socket, whose connections inherit it: on one that is connected already it costs a sixth
    more CPU per byte for the rest of its life.

    The system may allow less (``net.core.rmem_max``, 208 KiB by default on older kernels). A queue that small would
    cost more CPU than a long one costs downtime, so then the kernel goes back to its autotuning, up to the third
    number of ``net.ipv4.tcp_rmem``.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 2 * wanted:
        return True
    with suppress(OSError):  # before Linux 5.15: the small queue stays
        sock.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)
    return False


def hung_up(sock: socket.socket, *, fin: bool) -> bool:
    """Whether the connection has broken, or with ``fin`` been closed by the peer. Unread bytes do not hide it."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP if fin else 0)
    found = sum(events for _, events in poll.poll(0))
    return bool(found & (select.POLLERR | (select.POLLRDHUP | select.POLLHUP if fin else 0)))


def _is_viewed(buffer: bytearray) -> bool:
    """Whether a view of ``buffer`` is alive: then it must keep its size, and CPython sees to that."""
    try:
        buffer.append(buffer.pop())
    except BufferError:
        return True
    return False


def _drop_sent(pending: list[memoryview], sent: int) -> None:
    """Take what was sent off the front of ``pending``, and what is empty with it."""
    whole = 0
    for view in pending:
        if sent < view.nbytes:
            pending[whole] = view[sent:]
            break
        sent -= view.nbytes
        whole += 1
    del pending[:whole]
