"""What a running proxyd and the one that is to take its place say to each other: messages with file descriptors.

A pair of connected sockets (``SOCK_SEQPACKET``), one message of JSON each. The new process may be of another version,
so the messages have one; a newer one may have fields that an older one does not know.

    old process                                     new process
    SOCKETS key, listening sockets (again and again)
    ROUTE   a temporary route (again and again)
    OPEN                                       ->   reads the configuration, opens and adopts every port
                                               <-   READY keys of the sockets that it has use for, or REFUSED reason
    SERVE                                      ->   control socket, metrics, watchdog
                                               <-   SERVING
    CONNECTION key, a connection (any number)  ->   begins a session with it
    ACCEPT, or the end of the old process      ->   accepts connections itself

Nothing here decides anything: :mod:`proxyd.successor` is the old process's end, :mod:`proxyd.predecessor` that of the
new one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final

import msgspec
import trio

VERSION: Final = 1

# The environment variable with the file descriptor of the new process's end.
VARIABLE: Final = "PROXYD_UPGRADE_FD"

# What sockets of the service manager's are called, with FileDescriptorName= behind it.
INHERITED: Final = "inherited "

# A message is one datagram, and the kernel queues some 200 KiB of them.
MAX_MESSAGE_BYTES: Final = 128 << 10

# Linux passes at most 253 with a message (SCM_MAX_FD).
MAX_DESCRIPTORS: Final = 128


class Kind(StrEnum):
    """What a message says."""

    SOCKETS = "sockets"
    ROUTE = "route"
    OPEN = "open"
    READY = "ready"
    REFUSED = "refused"
    SERVE = "serve"
    SERVING = "serving"
    CONNECTION = "connection"
    ACCEPT = "accept"


class TemporaryRoute(msgspec.Struct, frozen=True):
    """A temporary route: what it was made of, and how many seconds it has left (None: for ever)."""

    table: dict[str, Any]
    label: str
    once: bool
    expires_s: float | None


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message; which fields it has depends on its kind."""

    kind: Kind
    key: str = ""
    keys: tuple[str, ...] = ()
    reason: str = ""
    route: TemporaryRoute | None = None


class _Sent(msgspec.Struct, frozen=True):
    version: int
    message: Message


class LinkBroken(Exception):
    """The other process has ended, or says what it must not. ``str()`` is one sentence."""


class Link:
    """One end. Sending keeps the order of the calls; one task receives."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._sending = trio.Lock()

    def fileno(self) -> int:
        """The descriptor."""
        return self._socket.fileno()

    async def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send. The descriptors are the other process's as well then.

        :raises LinkBroken: the other process has gone.
        """
        async with self._sending:
            while True:
                try:
                    self._send(message, descriptors)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
                except OSError as error:
                    raise LinkBroken(f"the other process has gone: {error.strerror}") from error
                else:
                    return

    def send_now(self, message: Message) -> None:
        """Send outside of an event loop, or drop the message if the other process does not read."""
        with suppress(OSError):
            self._send(message, ())

    async def receive(self) -> tuple[Message, list[socket.socket]]:
        """The next message, and the sockets that came with it.

        :raises LinkBroken: the other process has ended, or is of another version.
        """
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(
                    MAX_MESSAGE_BYTES, socket.CMSG_SPACE(4 * MAX_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                continue
            except ConnectionResetError:
                # The other end has ended with a message unread. What it said is behind this error, and then its end.
                continue
            except OSError as error:
                raise LinkBroken(f"the other process has gone: {error.strerror}") from error
            break
        # Others have a turn, so that what one message begins is begun before the next is read.
        await trio.lowlevel.checkpoint()
        sockets = [socket.socket(fileno=descriptor) for _, _, rights in ancillary for descriptor in _numbers(rights)]
        if not data:
            raise LinkBroken("the other process has ended")
        try:
            sent = msgspec.json.decode(data, type=_Sent)
        except msgspec.DecodeError as error:
            raise LinkBroken(f"a message of another proxyd expected, found: {error}") from error
        if sent.version != VERSION:
            raise LinkBroken(f"version {VERSION} of the upgrade's messages expected, found {sent.version}")
        return sent.message, sockets

    def close(self) -> None:
        """The other end sees the end."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _send(self, message: Message, descriptors: Sequence[int]) -> None:
        """Raises :class:`OSError`."""
        socket.send_fds(self._socket, [msgspec.json.encode(_Sent(VERSION, message))], list(descriptors))


def link_from_environment(environment: dict[str, str] | os._Environ[str]) -> Link | None:
    """The link to a process that this one is to replace, if it was started for that; read once."""
    number = environment.pop(VARIABLE, "")
    if not (number.isascii() and number.isdigit()):
        return None
    sock = socket.socket(fileno=int(number))
    sock.set_inheritable(False)
    return Link(sock)


def _numbers(rights: bytes) -> memoryview:
    return memoryview(rights[: len(rights) // 4 * 4]).cast("i")
