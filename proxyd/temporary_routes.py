"""Routes that come and go while the daemon runs: what ``proxyd route add`` makes.

An orchestrator knows source and destination only when it migrates, so it asks for a route, is told where that listens,
and lets the source migrate there. Such a route is judged as one in the configuration file is. It outlives a reload, not
a drain; it is never in the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
import trio

from proxyd import config_file
from proxyd.config import Config, ConfigError
from proxyd.control.protocol import ControlError, ErrorKind
from proxyd.endpoint import ListenEndpoint
from proxyd.relay.listener import RoutePort, Sessions
from proxyd.relay.listening import HandedSockets, InheritedSockets, listen_on
from proxyd.relay.surroundings import Surroundings
from proxyd.snapshot import one_more_route
from proxyd.successor import Successor
from proxyd.upgrade_link import TemporaryRoute

# Each is a listening socket and a knowledge of its destination; an orchestrator that forgets them is stopped here.
MAX_ROUTES: Final = 256

# How long a route for one migration waits for it, unless it is told otherwise: an orchestrator starts the migration
# right after it has the address.
EXPIRES_S: Final = 600.0

# Metrics' name for routes that are like no route of the configuration.
LABEL: Final = "control"


# What a temporary route's sockets are called between a process and the one that takes its place.
_KEY: Final = "temporary "


@dataclass(eq=False, slots=True)
class _Open:
    """A route that is open, what it was made of, and when."""

    port: RoutePort
    made: TemporaryRoute
    since: float
    is_passed_on: bool = False

    def left(self) -> TemporaryRoute:
        """What makes it again, in another process: its own port, and the time that it has left."""
        table = self.made.table | {"listen": str(self.port.address)}
        if self.made.expires_s is None:
            return msgspec.structs.replace(self.made, table=table)
        # A time that has run out under a migration: the other process finds out.
        left = max(self.made.expires_s - (trio.current_time() - self.since), 0.001)
        return msgspec.structs.replace(self.made, table=table, expires_s=left)


class TemporaryRoutes:
    """The temporary routes of a daemon."""

    def __init__(self, sessions: Sessions, around: Surroundings, inherited: InheritedSockets) -> None:
        self._sessions = sessions
        self._around = around
        self._inherited = inherited
        self._routes: dict[str, _Open] = {}
        self._adding = trio.Lock()
        self._closed = False

    def describe(self) -> list[dict[str, Any]]:
        """What ``proxyd route list`` shows of them."""
        return [
            {
                "name": name,
                "listen": str(one.port.address),
                "destination": str(one.port.route.destination),
                "temporary": True,
                "once": one.made.once,
            }
            for name, one in self._routes.items()
        ]

    async def add(
        self, config: Config, table: dict[str, Any], nursery: trio.Nursery, *, once: bool, expires_s: float | None
    ) -> ListenEndpoint:
        """Open a route. ``table`` is what stands in a ``[[route]]``, and ``like``, the name of one to begin with.

        :param once: close it when its first migration has ended; if none comes within ``expires_s`` seconds, then.
        :raises ControlError: it would be refused in a configuration file, or cannot listen.
        """
        # One at a time: names and numbers are looked at before something is waited for, and taken after it.
        async with self._adding:
            if len(self._routes) >= MAX_ROUTES:
                message = f"at most {MAX_ROUTES} temporary routes expected, found another"
                raise ControlError(ErrorKind.REFUSED, message)
            like = table.pop("like", None)
            whole = self._completed(config, table, like)
            if whole.get("name") in self._routes:
                message = f"there is a temporary route {whole['name']!r} already"
                raise ControlError(ErrorKind.BAD_INPUT, message)
            if once and expires_s is None:
                expires_s = EXPIRES_S
            one = await self._open(config, TemporaryRoute(whole, like or LABEL, once, expires_s), nursery)
            nursery.start_soon(one.port.serve, nursery, name=f"port {one.port.address}")
            return one.port.address

    async def _open(
        self, config: Config, made: TemporaryRoute, nursery: trio.Nursery, handed: HandedSockets | None = None
    ) -> _Open:
        """Raises :class:`ControlError`."""
        try:
            # In a thread: files and knowledge take milliseconds, which belong to the migrations.
            route = await trio.to_thread.run_sync(
                lambda: one_more_route(config_file.with_route(config, made.table), label=made.label)
            )
        except ConfigError as error:
            raise ControlError(ErrorKind.BAD_INPUT, f"{error.key}: {error.message}") from error
        try:
            adopted = handed and handed.adopt(_KEY + route.name, route.listen)
            listeners = adopted or await listen_on(route.listen, self._inherited)
        except OSError as error:
            message = f"cannot listen on {route.listen}: {error.strerror}"
            raise ControlError(ErrorKind.REFUSED, message) from error
        if self._closed:
            listeners.close()
            raise ControlError(ErrorKind.REFUSED, "the daemon is draining")
        one = _Open(RoutePort(route, listeners, self._sessions, self._around), made, trio.current_time())
        self._routes[route.name] = one
        if made.expires_s is not None:
            nursery.start_soon(self._expire, route.name, one, made.expires_s)
        return one

    def _completed(self, config: Config, table: dict[str, Any], like: object) -> dict[str, Any]:
        base: dict[str, Any] = {"listen": "127.0.0.1:0"}
        if like is not None:
            found = next((route for route in config.route if route.name == like), None)
            if found is None:
                known = ", ".join(route.name for route in config.route)
                raise ControlError(ErrorKind.BAD_INPUT, f"like: a route among {known} expected, found {like!r}")
            base = {key: value for key, value in msgspec.to_builtins(found).items() if value is not None}
            base["listen"] = "127.0.0.1:0"
        return base | table

    def remove(self, name: str) -> None:
        """Close a route; what came in through it goes on. Raises :class:`ControlError`."""
        if name not in self._routes:
            known = ", ".join(sorted(self._routes)) or "none"
            raise ControlError(ErrorKind.BAD_INPUT, f"a temporary route expected (there are: {known}), found {name!r}")
        self._routes.pop(name).port.close()

    def close(self) -> None:
        """Close all of them, and open no more."""
        self._closed = True
        for name in tuple(self._routes):
            self.remove(name)

    async def _expire(self, name: str, one: _Open, seconds: float) -> None:
        """Close the route when its time is over, but not under a migration: its channels may still come."""
        port = one.port
        with trio.move_on_after(seconds):
            await port.migrated.wait() if one.made.once else await trio.sleep_forever()
        while not port.migrated.is_set() and port.is_busy:
            with trio.move_on_after(1):
                await port.migrated.wait()
        if self._routes.get(name) is one:
            self._around.journal.info("the temporary route is closed", route=name)
            self.remove(name)

    # Upgrade.

    def handover(self) -> tuple[dict[str, list[int]], list[TemporaryRoute]]:
        """Sockets and routes for a process that is to take this one's place.

        A route for one migration stays here if that one has come: it is closed with it.
        """
        going = [one for one in self._routes.values() if not (one.made.once and one.port.is_busy)]
        sockets = {_KEY + one.port.route.name: one.port.descriptors for one in going}
        return sockets, [one.left() for one in going]

    def pass_on(self, successor: Successor, keys: frozenset[str]) -> None:
        """Give connections to ``successor``, which has adopted the sockets of ``keys``."""
        for name, one in self._routes.items():
            if _KEY + name in keys:
                one.port.pass_on(partial(successor.pass_on, _KEY + name))
                one.is_passed_on = True

    def release(self) -> None:
        """Another process accepts on what was passed on."""
        for name, one in tuple(self._routes.items()):
            if one.is_passed_on:
                one.port.release()
                del self._routes[name]

    @property
    def is_growing(self) -> bool:
        """Whether a migration that came in where another process will accept may get more channels."""
        return any(one.port.is_growing for one in self._routes.values() if one.is_passed_on)

    async def adopt(
        self, config: Config, routes: Iterable[TemporaryRoute], handed: HandedSockets, nursery: trio.Nursery
    ) -> None:
        """Take over what another process has handed over; :meth:`accept` begins to accept there.

        :raises ControlError: the configuration refuses one of them.
        """
        for made in routes:
            await self._open(config, made, nursery, handed)

    def accept(self, nursery: trio.Nursery) -> None:
        """Accept on the routes that were adopted."""
        for one in self._routes.values():
            nursery.start_soon(one.port.serve, nursery, name=f"port {one.port.address}")

    def find(self, key: str) -> RoutePort | None:
        """The port that a predecessor calls ``key``."""
        one = self._routes.get(key.removeprefix(_KEY)) if key.startswith(_KEY) else None
        return None if one is None else one.port
