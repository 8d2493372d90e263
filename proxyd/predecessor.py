"""Taking another proxyd's place: the new process's side of an upgrade (``proxyd upgrade``, SIGUSR2).

The listening sockets of the old process are adopted, so that no connection is refused at any moment. It goes on
accepting on them at first, and passes what is not its own; from ACCEPT on, or when it has died, this process does.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from proxyd.relay.listening import HandedSockets, InheritedSockets
from proxyd.upgrade_link import INHERITED, Kind, Link, LinkBroken, Message, TemporaryRoute, link_from_environment


class CannotTakeOver(Exception):
    """Another process stays in its place. ``str()`` says why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What the old process leaves."""

    sockets: HandedSockets
    inherited: InheritedSockets
    routes: tuple[TemporaryRoute, ...]


class Predecessor:
    """The process whose place this one takes."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @classmethod
    def from_environment(cls, environment: dict[str, str] | os._Environ[str]) -> Predecessor | None:
        """The process that has started this one, if that was for an upgrade."""
        link = link_from_environment(environment)
        return None if link is None else cls(link)

    def refuse(self, reason: str) -> None:
        """This process cannot take the place; the other one stays as it is and tells why."""
        self._link.send_now(Message(Kind.REFUSED, reason=reason))

    async def inherit(self) -> Inheritance:
        """What there is to take over. Raises :class:`LinkBroken`."""
        sockets: dict[str, list[socket.socket]] = {}
        inherited: dict[str, tuple[int, ...]] = {}
        routes: list[TemporaryRoute] = []
        while True:
            message, passed = await self._link.receive()
            if message.kind is Kind.SOCKETS and message.key.startswith(INHERITED):
                name = message.key.removeprefix(INHERITED)
                inherited[name] = (*inherited.get(name, ()), *(sock.detach() for sock in passed))
            elif message.kind is Kind.SOCKETS:
                sockets.setdefault(message.key, []).extend(passed)
            elif message.kind is Kind.ROUTE and message.route is not None:
                routes.append(message.route)
            else:
                return Inheritance(HandedSockets(sockets), InheritedSockets(inherited), tuple(routes))

    async def ready(self, keys: tuple[str, ...]) -> None:
        """Every port is open; ``keys`` are those that were adopted. Returns when this process is to serve.

        :raises LinkBroken: the other process stays, or has ended.
        """
        await self._link.send(Message(Kind.READY, keys=keys))
        await self._link.receive()

    async def serving(self) -> None:
        """Commands and scrapes are answered here."""
        with suppress(LinkBroken):
            await self._link.send(Message(Kind.SERVING))

    async def take(self, begin: Callable[[str, socket.socket], None]) -> None:
        """Call ``begin`` with each connection that is passed, until it is this process's turn to accept."""
        with suppress(LinkBroken):
            while True:
                message, passed = await self._link.receive()
                if message.kind is not Kind.CONNECTION:
                    break
                for sock in passed:
                    begin(message.key, sock)
        self._link.close()
