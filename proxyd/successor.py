"""Letting another proxyd take this one's place: the old process's side of an upgrade (``proxyd upgrade``, SIGUSR2).

The command line of this process is started again, which runs what is installed now. The new process gets every
listening socket, opens what else its configuration asks for, and says that it is ready, or the upgrade has failed and
nothing has changed. Then it serves, and this process finishes the sessions that it has.

**Connections that belong together** must not be torn apart: a migration whose main channel is here needs its other
channels here. So this process goes on accepting for as long as one of its migrations may get more channels
(:attr:`proxyd.relay.session.MigrationSession.is_growing`), keeps what comes from the same source, and passes everything
else on.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence

import trio

from proxyd.upgrade_link import MAX_DESCRIPTORS, VARIABLE, Kind, Link, LinkBroken, Message, TemporaryRoute

# What is another process's business: the service manager's sockets and watchdog are given to a process by its id.
_NOT_INHERITED = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")


class UpgradeFailed(Exception):
    """The new process did not come to serve; nothing has changed. ``str()`` is one sentence."""


def command_line() -> list[str]:
    """What starts this process again, with the interpreter that is there now."""
    return [sys.executable, *sys.orig_argv[1:]]


class Successor:
    """The process that takes this one's place. It is a child of this one until this one ends."""

    def __init__(self, process: trio.Process, link: Link) -> None:
        self._process = process
        self._link = link

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @classmethod
    async def start(cls, command: Sequence[str]) -> Successor:
        """Start it. Raises :class:`UpgradeFailed`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        environment[VARIABLE] = str(theirs.fileno())
        with theirs:
            try:
                process = await trio.lowlevel.open_process(
                    list(command), env=environment, pass_fds=(theirs.fileno(),), stdin=None
                )
            except OSError as error:
                ours.close()
                raise UpgradeFailed(f"cannot start {command[0]}: {error.strerror}") from error
        return cls(process, Link(ours))

    async def get_ready(
        self, sockets: Mapping[str, Sequence[int]], routes: Iterable[TemporaryRoute], limit_s: float
    ) -> frozenset[str]:
        """Hand everything over, and wait until it is ready. Returns the keys of the sockets that it has use for.

        :raises UpgradeFailed: it ended, or refused, or was not ready within ``limit_s`` seconds.
        """
        try:
            with trio.fail_after(limit_s):
                for key, descriptors in sockets.items():
                    for first in range(0, len(descriptors), MAX_DESCRIPTORS):
                        chunk = descriptors[first : first + MAX_DESCRIPTORS]
                        await self._link.send(Message(Kind.SOCKETS, key=key), chunk)
                for route in routes:
                    await self._link.send(Message(Kind.ROUTE, route=route))
                await self._link.send(Message(Kind.OPEN))
                answer = await self._answer()
        except trio.TooSlowError:
            raise UpgradeFailed(f"the new process was not ready within {limit_s:g} s (limits.upgrade_time_s)") from None
        if answer.kind is not Kind.READY:
            raise UpgradeFailed(f"the new process refused: {answer.reason}")
        return frozenset(answer.keys)

    async def serve(self, limit_s: float) -> None:
        """Let it answer commands and scrapes. Raises :class:`UpgradeFailed`."""
        try:
            with trio.fail_after(limit_s):
                await self._link.send(Message(Kind.SERVE))
                await self._answer()
        except LinkBroken as error:
            raise UpgradeFailed(str(error)) from error
        except trio.TooSlowError:
            raise UpgradeFailed(f"the new process did not serve within {limit_s:g} s (limits.upgrade_time_s)") from None

    async def pass_on(self, key: str, sock: socket.socket) -> bool:
        """Give it a connection. Says whether that was possible; it is its own then, and ``sock`` may be closed."""
        try:
            await self._link.send(Message(Kind.CONNECTION, key=key), (sock.fileno(),))
        except LinkBroken:
            return False
        return True

    async def accept(self) -> None:
        """Let it accept connections itself. If it has died, nobody will."""
        try:
            await self._link.send(Message(Kind.ACCEPT))
        except LinkBroken:
            return
        finally:
            self._link.close()

    async def kill(self) -> None:
        """End it, whatever it does. It has nothing that could be lost."""
        self._link.close()
        self._process.kill()
        await self._process.wait()

    async def _answer(self) -> Message:
        try:
            answer, _ = await self._link.receive()
        except LinkBroken as error:
            raise UpgradeFailed(f"no answer of the new process: {error}; its log says why") from error
        return answer
