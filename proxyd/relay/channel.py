"""The two legs of a relayed channel: what a session needs of a connection, and how the destination is dialled.

A :class:`Leg` is one connection with a peer. The bytes of the real one move in :mod:`proxyd.relay.transport`; what is
added here is keepalive, the peer's name, and a close that does not wait. Nothing here knows what the bytes mean.

**Two ways to end.** :meth:`Leg.close` lets the kernel deliver what was sent, then FIN. :meth:`Leg.abort` throws away
what was not delivered and sends RST: the peer must see an error, not an end.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final, Protocol

import trio

from proxyd.endpoint import Address, Dialled, UnixPath
from proxyd.relay.transport import Buffer, BulkStream, hung_up

# struct ucred (unix(7)): pid, uid, gid.
_UCRED: Final = struct.Struct("iII")

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

    @property
    def ended_cleanly(self) -> bool:
        """Whether the end that was received says that nothing was cut off: all but a TLS leg without close_notify."""

    async def send_eof(self, *, clean: bool = True) -> None:
        """Half-close: FIN after what was sent; before it, on a TLS leg, close_notify, unless it is not to be clean."""

    def hung_up(self, *, fin: bool) -> bool:
        """Whether the connection has broken, or with ``fin`` been closed by the peer, whatever has not been read."""

    def keepalive(self, *, on: bool) -> None:
        """Whether the kernel probes a silent peer, and takes no answer for the end of the connection."""

    def abort(self) -> None:
        """RST. Does nothing to a leg that is closed."""

    def close(self) -> None:
        """Close gracefully. Does nothing to a leg that is closed."""


class SocketLeg(BulkStream):
    """A :class:`Leg` on a plain socket. It is made by :meth:`take`, which may raise :class:`OSError`.

    ``host`` is the peer's IP address and ``local`` our own address; both are None for a UNIX socket.
    """

    ended_cleanly = True

    def __init__(self, sock: socket.socket, *, receive_queue_bytes: int | None = None) -> None:
        super().__init__(sock, receive_queue_bytes=receive_queue_bytes)
        self.host: str | None = None
        self.local: Address | None = None
        if not self.is_tcp:
            pid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0]
            self.peer = self.origin = f"unix (pid {pid})"
            return
        self.host = self.origin = self.getpeername()[0]
        self.peer = str(Address(*self.getpeername()))
        self.local = Address(*self.getsockname())
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        self.keepalive(on=True)

    @classmethod
    def adopt(cls, descriptor: int, peer: str) -> SocketLeg:
        """The leg of another process that is gone; ``peer`` as that one knew it, for it may have gone as well.

        :raises OSError: the descriptor is not a socket.
        """
        leg = cls.__new__(cls)
        BulkStream.__init__(leg, socket.socket(fileno=descriptor))
        leg.host = leg.local = None
        leg.peer = leg.origin = peer
        return leg

    def hung_up(self, *, fin: bool) -> bool:
        """See :class:`Leg`."""
        return hung_up(self._socket, fin=fin)

    def keepalive(self, *, on: bool) -> None:
        """See :class:`Leg`. Does nothing to a leg that is closed, or that has no network."""
        if self.is_tcp and self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(on))

    def close(self) -> None:
        """See :class:`Leg`."""
        self._close()

    async def send_eof(self, *, clean: bool = True) -> None:  # noqa: ARG002 - a plain socket has one kind of end
        """See :class:`Leg`."""
        await super().send_eof()


class DestinationUnreachable(Exception):
    """No address of the destination took the connection. ``str()`` names each address and its error."""


async def dial(destination: Dialled, timeout_s: float) -> SocketLeg:
    """Connect to the destination: one address after the other, each with ``timeout_s`` seconds; resolving a name
    may take as long.

    Never two at once, as trio.open_tcp_stream would: a connection that is opened and closed without data makes a
    waiting QEMU exit (``migration/migration.c: migration_ioc_process_incoming`` fails to peek at it).

    :raises DestinationUnreachable: the name does not resolve, or nobody accepted.
    """
    failures = []
    for family, where, name in await _addresses(destination, timeout_s):
        try:
            return await _connect(family, where, timeout_s)
        except OSError as error:
            failures.append(f"{name}: {os.strerror(error.errno) if error.errno else error}")
        except trio.TooSlowError:
            failures.append(f"{name}: no answer in {timeout_s:g} s (limits.connect_time_s)")
    found = "; ".join(failures)
    raise DestinationUnreachable(f"destination {destination}: expected a QEMU that listens, found {found}")


async def _addresses(destination: Dialled, timeout_s: float) -> list[tuple[int, Any, str]]:
    """Family, address for ``connect``, and what to call it."""
    if isinstance(destination, UnixPath):
        return [(socket.AF_UNIX, destination.path, destination.path)]
    try:
        with trio.fail_after(timeout_s):
            found = await trio.socket.getaddrinfo(destination.host, destination.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise DestinationUnreachable(f"destination {destination}: the name does not resolve: {error}") from error
    except trio.TooSlowError:
        reason = f"the name did not resolve in {timeout_s:g} s (limits.connect_time_s)"
        raise DestinationUnreachable(f"destination {destination}: {reason}") from None
    return [(family, where, str(where[0])) for family, _, _, _, where in found]


async def _connect(family: int, where: Any, timeout_s: float) -> SocketLeg:
    connection = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        with trio.fail_after(timeout_s):
            await connection.connect(where)
        return SocketLeg.take(trio.SocketStream(connection))
    except BaseException:
        connection.close()
        raise
