"""What an upgrade does to a daemon's ports, on both sides: a process whose place is taken, and one that takes it.

The old process is not disturbed until the new one serves; then it accepts for as long as its migrations may get more
channels. :mod:`proxyd.upgrade_link` has the order of events.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Final

import trio

from proxyd.config import Config
from proxyd.control.protocol import ControlError
from proxyd.ports import Ports
from proxyd.predecessor import Inheritance, Predecessor
from proxyd.successor import Successor, UpgradeFailed
from proxyd.temporary_routes import TemporaryRoutes
from proxyd.upgrade_link import LinkBroken

# How often it is looked whether a migration is complete, while another process waits to accept connections itself.
LOOK_S: Final = 0.1


class CannotTakeOver(Exception):
    """Another process stays in its place. ``str()`` says why, in one sentence."""


class Upgrade:
    """One daemon's part in upgrades.

    :param command: what starts the process that is to take this one's place.
    :param predecessor: the process whose place this one takes, with what it has left.
    """

    def __init__(
        self,
        ports: Ports,
        temporary: TemporaryRoutes,
        command: Sequence[str],
        predecessor: tuple[Predecessor, Inheritance] | None,
    ) -> None:
        self.successor: Successor | None = None
        self._ports = ports
        self._temporary = temporary
        self._command = command
        self._predecessor = predecessor

    # The process whose place is taken.

    async def start(self, limit_s: float, check: Callable[[], None]) -> int:
        """Start another process, and let it serve. Returns its process id.

        :param check: called after everything that was waited for; raises :class:`UpgradeFailed` where it must not be.
        :raises UpgradeFailed: nothing has changed.
        """
        self._check(check)
        successor = await Successor.start(self._command)
        try:
            sockets, routes = self._temporary.handover()
            keys = await successor.get_ready(self._ports.handover() | sockets, routes, limit_s)
            self._check(check)
            await successor.serve(limit_s)
            self._check(check)
        except BaseException:
            with trio.CancelScope(shield=True):
                await successor.kill()
            raise
        self._ports.pass_on(successor, keys)
        self._temporary.pass_on(successor, keys)
        self.successor = successor
        return successor.pid

    def _check(self, check: Callable[[], None]) -> None:
        if not self._command:
            raise UpgradeFailed("it is not known how this process was started")
        if self._predecessor is not None:
            raise UpgradeFailed("the process before this one still accepts connections for its own migrations")
        check()

    async def finish_accepting(self, hurried: Callable[[], bool]) -> None:
        """Accept for as long as a migration may get channels, unless it is ``hurried``; then the other process does."""
        assert self.successor is not None, "somebody else serves"  # noqa: S101
        while not hurried() and (self._ports.is_growing or self._temporary.is_growing):  # noqa: ASYNC110
            await trio.sleep(LOOK_S)  # times decide as well as events
        await self.successor.accept()
        self._ports.release()
        self._temporary.release()

    # The process that takes its place.

    async def serve(self, config: Config, nursery: trio.Nursery) -> None:
        """Begin to accept; with a predecessor, wait until it lets this process serve.

        :raises CannotTakeOver: it stays, or there is something that cannot be taken over.
        """
        if self._predecessor is None:
            self._ports.serve(nursery)
            return
        predecessor, inheritance = self._predecessor
        handed = inheritance.sockets
        try:
            await self._temporary.adopt(config, inheritance.routes, handed, nursery)
            await predecessor.ready(tuple(handed.taken))
        except ControlError as error:
            raise CannotTakeOver(f"a temporary route: {error}") from error
        except LinkBroken as error:
            raise CannotTakeOver(f"the process to be replaced stays: {error}") from error
        handed.ours = True
        handed.close()

    async def take_connections(self, nursery: trio.Nursery, may_accept: Callable[[], bool]) -> None:
        """Tell a predecessor that this process serves, take what it passes on, and then accept."""
        if self._predecessor is None:
            return

        def begin(key: str, sock: socket.socket) -> None:
            port = self._ports.find(key) or self._temporary.find(key)
            if port is None or not may_accept():
                sock.close()  # its route was closed meanwhile
            else:
                port.begin(sock, nursery)

        predecessor, _ = self._predecessor
        await predecessor.serving()
        await predecessor.take(begin)
        self._predecessor = None
        if may_accept():
            self._ports.serve(nursery)
            self._temporary.accept(nursery)
