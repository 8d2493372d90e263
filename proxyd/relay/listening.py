"""Listening sockets, one function for each kind of endpoint that a route can listen on."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import trio

from proxyd.endpoint import Address, InheritedSocket, ListenEndpoint, PortRange, UnixPath
from proxyd.relay.transport import bound_receive_queue

# A source connects once per channel; a burst of this many within one turn of the event loop is no migration.
BACKLOG: Final = 512

# Who may migrate through a UNIX socket: proxyd's user and group, as QEMU's own is theirs.
UNIX_MODE: Final = 0o660

# sd_listen_fds(3): the first of the file descriptors that are passed.
_FIRST_FD: Final = 3


class InheritedSockets:
    """The listening sockets that the service manager has passed, by name."""

    def __init__(self, by_name: Mapping[str, tuple[int, ...]]) -> None:
        self._by_name = dict(by_name)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int) -> InheritedSockets:
        """As ``sd_listen_fds_with_names(3)``; what is meant for another process is ignored."""
        if environment.get("LISTEN_PID") != str(pid):
            return cls({})
        try:
            count = int(environment.get("LISTEN_FDS", "0"))
        except ValueError:
            return cls({})
        names = environment.get("LISTEN_FDNAMES", "").split(":")
        found: dict[str, tuple[int, ...]] = {}
        for number in range(count):
            name = (names[number] if number < len(names) else "") or "unknown"
            found[name] = (*found.get(name, ()), _FIRST_FD + number)
        return cls(found)

    def take(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """The descriptors whose names begin so; the caller has them from now on."""
        taken = {name: found for name, found in self._by_name.items() if name.startswith(prefix)}
        self._by_name = {name: found for name, found in self._by_name.items() if name not in taken}
        return taken

    def open(self, name: str) -> list[socket.socket]:
        """Every socket of this name. Closing one leaves the manager's own open: a reload can have it again.

        :raises OSError: there is none, or one does not listen.
        """
        descriptors = self._by_name.get(name, ())
        if not descriptors:
            passed = ", ".join(sorted(self._by_name)) or "none"
            raise OSError(0, f"no socket of this name was passed by the service manager (passed: {passed})")
        sockets = []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=os.dup(descriptor))
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                sock.close()
                raise OSError(0, "the socket that the service manager passed does not listen (Accept=no, a stream)")
            sockets.append(sock)
        return sockets


class Listeners:
    """What one route listens on."""

    def __init__(self, endpoint: ListenEndpoint, listeners: list[trio.SocketListener], at_close: Callable[[], None]):
        self.endpoint = endpoint
        self.listeners = listeners
        self._at_close = at_close

    def close(self) -> None:
        """Take no more connections: who comes is refused by the kernel."""
        for listener in self.listeners:
            listener.socket.close()
        self._at_close()


async def listen_on(endpoint: ListenEndpoint, inherited: InheritedSockets) -> Listeners:
    """Bind and listen. The endpoint of the result has the port that the kernel chose where 0 was asked for.

    :raises OSError: it is taken, not this machine's, or not there.
    """
    match endpoint:
        case Address():
            listener = await _tcp(endpoint)
            host, port = listener.socket.getsockname()[:2]
            return Listeners(Address(host, port), [listener], _nothing)
        case PortRange():
            opened: list[trio.SocketListener] = []
            try:
                for address in endpoint.addresses:
                    opened.append(await _tcp(address))
            except OSError as error:
                for listener in opened:
                    listener.socket.close()
                raise OSError(error.errno, f"port {address.port}: {error.strerror}") from error
            return Listeners(endpoint, opened, _nothing)
        case UnixPath():
            path = endpoint.path
            return Listeners(endpoint, [_unix(path)], lambda: _remove(path))
        case InheritedSocket():
            sockets = inherited.open(endpoint.name)
            return Listeners(endpoint, [_listener(sock) for sock in sockets], _nothing)


def _listener(sock: socket.socket) -> trio.SocketListener:
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


async def _tcp(address: Address) -> trio.SocketListener:
    (listener,) = await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
    bound_receive_queue(listener.socket)
    return listener


def _unix(path: str) -> trio.SocketListener:
    """A socket in the file system. One that a dead process has left is replaced, one that answers is not."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(0, "there is a file of this name that is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            else:
                raise OSError(0, "another process listens there")
    sock = socket.socket(socket.AF_UNIX)
    try:
        # Nobody may connect before the mode is what it is to be.
        before = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        os.chmod(path, UNIX_MODE)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return _listener(sock)


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _nothing() -> None:
    """There is nothing to do."""
