"""The two legs of a relayed channel: what a session needs of a connection, and how the destination is dialled.

A :class:`Leg` is one connection with a peer. The bytes of the real one move in :mod:`proxyd.relay.transport`; what is
added here is keepalive, the peer's name, and a close that does not wait. Nothing here knows what the bytes mean.

**Two ways to end.** :meth:`Leg.close` lets the kernel deliver what was sent, then FIN. :meth:`Leg.abort` throws away
what was not delivered and sends RST: the peer must see an error, not an end.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from proxyd.endpoint import Address
from proxyd.relay.transport import Buffer, BulkStream

# A peer that has vanished is noticed after 60 + 6 * 10 seconds: longer than a switch takes to fail over, shorter than
# an operator waits.
KEEPALIVE_IDLE_S: Final = 60
KEEPALIVE_INTERVAL_S: Final = 10
KEEPALIVE_PROBES: Final = 6


# What a leg raises when it is gone: by its peer, or by our own close or abort in another task.
GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class Leg(Protocol):
    """One connection with a peer, as the session needs it. Tests have one in memory.

    A peer that is gone is :class:`trio.BrokenResourceError`; a leg that another task has closed or aborted meanwhile
    is :class:`trio.ClosedResourceError`.
    """

    @property
    def peer(self) -> str:
        """The peer's address, for people."""

    @property
    def origin(self) -> str:
        """What the connections of one source have in common: its IP address, or the process id behind a UNIX socket."""

    async def receive_some(self) -> bytes:
        """Some bytes; ``b""`` is FIN."""

    async def receive_chunk(self) -> memoryview:
        """Many bytes, in memory that is used again once no view of it is left; empty is FIN."""

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        """All of the buffers are with the kernel on return."""

    async def send_eof(self) -> None:
        """Half-close: FIN after what was sent."""

    def keepalive(self, *, on: bool) -> None:
        """Whether the kernel probes a silent peer, and takes no answer for the end of the connection."""

    def abort(self) -> None:
        """RST. Does nothing to a leg that is closed."""

    def close(self) -> None:
        """Close gracefully. Does nothing to a leg that is closed."""


class SocketLeg(BulkStream):
    """A :class:`Leg` on a TCP socket. It is made by :meth:`take`, which may raise :class:`OSError`."""

    def __init__(self, sock: socket.socket, *, receive_queue_bytes: int | None = None) -> None:
        super().__init__(sock, receive_queue_bytes=receive_queue_bytes)
        self.peer = str(Address(*self.getpeername()))
        self.origin = self.getpeername()[0]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        self.keepalive(on=True)

    def keepalive(self, *, on: bool) -> None:
        """See :class:`Leg`. Does nothing to a leg that is closed."""
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(on))

    def close(self) -> None:
        """See :class:`Leg`."""
        self._close()


class DestinationUnreachable(Exception):
    """No address of the destination took the connection. ``str()`` names each address and its error."""


async def dial(address: Address, timeout_s: float) -> SocketLeg:
    """Connect to the destination: one address after the other, each with ``timeout_s`` seconds.

    Never two at once, as trio.open_tcp_stream would: a connection that is opened and closed without data makes a
    waiting QEMU exit (``migration/migration.c: migration_ioc_process_incoming`` fails to peek at it).

    :raises DestinationUnreachable: the name does not resolve, or nobody accepted.
    """
    try:
        found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise DestinationUnreachable(f"destination {address}: the name does not resolve: {error}") from error
    failures = []
    for family, kind, protocol, _, where in found:
        try:
            return await _connect(family, kind, protocol, where, timeout_s)
        except OSError as error:
            failures.append(f"{where[0]}: {os.strerror(error.errno) if error.errno else error}")
        except trio.TooSlowError:
            failures.append(f"{where[0]}: no answer in {timeout_s:g} s (limits.connect_time_s)")
    raise DestinationUnreachable(f"destination {address}: expected a QEMU that listens, found {'; '.join(failures)}")


async def _connect(family: int, kind: int, protocol: int, where: tuple[object, ...], timeout_s: float) -> SocketLeg:
    connection = trio.socket.socket(family, kind, protocol)
    try:
        with trio.fail_after(timeout_s):
            await connection.connect(where)
        return SocketLeg.take(trio.SocketStream(connection))
    except BaseException:
        connection.close()
        raise
