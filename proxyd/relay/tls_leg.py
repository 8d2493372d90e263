"""A leg that is TLS, on the socket itself.

:class:`trio.SSLStream` passes everything through buffers in memory, in pieces of 16 KiB, and takes several times the
CPU (``docs/decisions/0041-tls.md``). Here OpenSSL reads from and writes to the non-blocking socket: one call takes
megabytes, and the process waits for the socket, as for a plain one.

**The end of a TLS stream.** A close_notify says that nothing was cut off; QEMU from 10.0 on sends one on its multifd
channels and takes a FIN without one for an error, older versions send none (``migration/multifd.c:
multifd-clean-tls-termination``). So what came is what is passed on: ``ended_cleanly`` tells, ``send_eof`` is told.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio

from proxyd.relay.channel import Leg, SocketLeg
from proxyd.relay.transport import LINGER_NOT, Buffer, hung_up
from proxyd.tls import ClientTls, ServerTls, identity_of

T = TypeVar("T")

# One receive: a TLS record has 16 KiB, and every chunk costs the relay some 60 us.
CHUNK_BYTES: Final = 1 << 20

# Smaller buffers than this are joined before they are encrypted, because each call makes a record of its own.
JOINED_BYTES: Final = 64 << 10

# enum of include/net/tcp_states.h: the state after an RST; after a FIN it is TCP_CLOSE_WAIT.
_TCP_CLOSE: Final = 7


class HandshakeFailed(Exception):
    """``str()`` says what was expected and what was found. ``silent``: the peer has said nothing at all."""

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class TlsLeg(Leg):
    """A :class:`~proxyd.relay.channel.Leg` with TLS on it. Made by :func:`accept_tls` and :func:`connect_tls`."""

    def __init__(self, raw: SocketLeg, context: ssl.SSLContext, hostname: str | None = None) -> None:
        self._local = raw.local
        self._peer = raw.peer
        self._origin = raw.origin
        self._ssl = context.wrap_socket(
            raw.detach(),
            server_side=hostname is None,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
            server_hostname=hostname,
        )
        self._buffer = bytearray()
        self._ended_cleanly = False

    @property
    def peer(self) -> str:
        """See :class:`~proxyd.relay.channel.Leg`."""
        return self._peer

    @property
    def origin(self) -> str:
        """See :class:`~proxyd.relay.channel.Leg`."""
        return self._origin

    @property
    def ended_cleanly(self) -> bool:
        """See :class:`~proxyd.relay.channel.Leg`."""
        return self._ended_cleanly

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's certificate, as :meth:`ssl.SSLSocket.getpeercert` has it; None if it has shown none."""
        return self._ssl.getpeercert() or None

    async def handshake(self) -> None:
        """Raises :class:`ssl.SSLError`, and what a leg raises that is gone."""
        await self._perform(self._ssl.do_handshake)

    async def receive_some(self) -> bytes:
        """See :class:`~proxyd.relay.channel.Leg`."""
        return bytes(await self._receive(64 << 10))

    async def receive_chunk(self) -> memoryview:
        """See :class:`~proxyd.relay.channel.Leg`."""
        return await self._receive(CHUNK_BYTES)

    async def _receive(self, size: int) -> memoryview:
        """What is there, at least one byte; empty at the end of the stream."""
        if len(self._buffer) < size or _is_viewed(self._buffer):
            self._buffer = bytearray(max(size, CHUNK_BYTES))
        view = memoryview(self._buffer)[:size]
        filled = 0
        try:
            filled = await self._perform(lambda: self._ssl.recv_into(view))
            # What has arrived meanwhile comes with it, record by record, as long as nobody has to wait for it.
            with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                while 0 < filled < size:
                    more = self._ssl.recv_into(view[filled:])
                    if not more:
                        break  # the end comes again with the next call
                    filled += more
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError) as error:
            if not filled and isinstance(error, ssl.SSLEOFError) and self._was_reset():
                raise trio.BrokenResourceError("connection broken: Connection reset by peer") from error
            self._ended_cleanly = isinstance(error, ssl.SSLZeroReturnError)
            return view[:filled].toreadonly()
        except (ssl.SSLError, OSError, ValueError) as error:
            if filled:
                return view[:filled].toreadonly()  # the error comes again
            raise self._translated(error) from error
        if not filled:
            self._ended_cleanly = True
        return view[:filled].toreadonly()

    def _was_reset(self) -> bool:
        """Whether the end was an RST: Python before 3.12 does not tell (SSL_read_ex says 0 for both)."""
        if self._ssl.family == socket.AF_UNIX or self._ssl.fileno() < 0:
            return False
        return self._ssl.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        """See :class:`~proxyd.relay.channel.Leg`."""
        try:
            for piece in _joined(buffers):
                view = memoryview(piece)
                while view:
                    sent = await self._perform(lambda view=view: self._ssl.send(view))  # type: ignore[misc]
                    view = view[sent:]
        except (ssl.SSLError, OSError, ValueError) as error:
            raise self._translated(error) from error

    async def send_eof(self, *, clean: bool = True) -> None:
        """See :class:`~proxyd.relay.channel.Leg`."""
        try:
            if clean:
                # It sends ours, and then waits for the peer's, which is the business of whoever receives.
                with suppress(ssl.SSLWantReadError):
                    await self._perform(self._ssl.unwrap, ssl.SSLWantWriteError)
            # Not SSLSocket's own, which would read on without TLS.
            socket.socket.shutdown(self._ssl, socket.SHUT_WR)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise self._translated(error) from error

    async def _perform(
        self,
        attempt: Callable[[], T],
        waits: type[ssl.SSLError] | tuple[type[ssl.SSLError], ...] = (ssl.SSLWantReadError, ssl.SSLWantWriteError),
    ) -> T:
        """Try until it neither has to read nor to write first."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self._ssl.fileno() < 0:
                raise trio.ClosedResourceError("this stream was closed already")
            try:
                done = attempt()
            except waits as error:
                reads = isinstance(error, ssl.SSLWantReadError)
                wait = trio.lowlevel.wait_readable if reads else trio.lowlevel.wait_writable
                try:
                    await wait(self._ssl)
                except trio.BusyResourceError:
                    # The other direction waits for the same thing: only while the two ends change their keys.
                    await trio.sleep(0.01)
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return done

    def hung_up(self, *, fin: bool) -> bool:
        """See :class:`~proxyd.relay.channel.Leg`."""
        return hung_up(self._ssl, fin=fin)

    def keepalive(self, *, on: bool) -> None:
        """See :class:`~proxyd.relay.channel.Leg`."""
        if self._ssl.fileno() >= 0:
            self._ssl.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(on))

    def abort(self) -> None:
        """See :class:`~proxyd.relay.channel.Leg`."""
        if self._ssl.fileno() >= 0:
            self._ssl.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            self.close()

    def close(self) -> None:
        """See :class:`~proxyd.relay.channel.Leg`."""
        self._buffer = bytearray()  # whoever still knows this leg must not keep that
        if self._ssl.fileno() >= 0:
            trio.lowlevel.notify_closing(self._ssl)
            self._ssl.close()

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, trio.ClosedResourceError) or self._ssl.fileno() < 0:
            return trio.ClosedResourceError("this stream was closed already")
        return trio.BrokenResourceError(f"connection broken: {getattr(error, 'reason', None) or error}")


async def accept_tls(raw: SocketLeg, tls: ServerTls) -> tuple[TlsLeg, str | None]:
    """Shake hands with a source. Returns the leg and the source's distinguished name.

    Resource handling: ``raw`` is gone afterwards, whatever comes of it.

    :raises HandshakeFailed: it is no TLS, or not one that we accept, or somebody else.
    """
    leg = TlsLeg(raw, tls.context)
    try:
        await leg.handshake()
    except (ssl.SSLError, OSError, trio.ClosedResourceError) as error:
        leg.abort()
        raise _failed("source", error) from error
    except BaseException:
        leg.abort()
        raise
    identity = identity_of(leg.certificate)
    if tls.identities and identity not in tls.identities:
        leg.abort()
        accepted = "; ".join(sorted(tls.identities))
        raise HandshakeFailed(f"expected a source among {accepted} (tls.source_identities), found {identity}")
    return leg, identity


async def connect_tls(raw: SocketLeg, tls: ClientTls, host: str) -> TlsLeg:
    """Shake hands with the destination, whose certificate must be for ``host``, unless the route names another.

    Resource handling and errors as :func:`accept_tls`.
    """
    leg = TlsLeg(raw, tls.context, tls.hostname or host)
    try:
        await leg.handshake()
    except (ssl.SSLError, OSError, trio.ClosedResourceError) as error:
        leg.abort()
        raise _failed("destination", error) from error
    except BaseException:
        leg.abort()
        raise
    return leg


def _failed(side: str, error: Exception) -> HandshakeFailed:
    if isinstance(error, ssl.SSLCertVerificationError):
        return HandshakeFailed(f"expected a certificate of the {side} that we accept, found: {error.verify_message}")
    if isinstance(error, ssl.SSLEOFError | ConnectionResetError | BrokenPipeError):
        return HandshakeFailed(f"expected a TLS handshake of the {side}, found the end of the connection", silent=True)
    reason = getattr(error, "reason", None) or str(error)
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"}:
        return HandshakeFailed(f"expected a TLS handshake of the {side}, found bytes that are none ({reason})")
    return HandshakeFailed(f"expected a TLS handshake of the {side}, found: {reason}")


def _joined(buffers: Sequence[Buffer]) -> Sequence[Buffer]:
    total = sum(memoryview(buffer).nbytes for buffer in buffers)
    return (b"".join(buffers),) if len(buffers) > 1 and total <= JOINED_BYTES else buffers


def _is_viewed(buffer: bytearray) -> bool:
    """Whether a view of ``buffer`` is alive: then it must keep its size, and CPython sees to that."""
    try:
        buffer.append(0)
        buffer.pop()
    except BufferError:
        return True
    return False
