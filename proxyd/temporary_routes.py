"""Routes that come and go while the daemon runs: what ``proxyd route add`` makes.

An orchestrator knows source and destination only when it migrates, so it asks for a route, is told where that listens,
and lets the source migrate there. Such a route is judged as one in the configuration file is. It outlives a reload, not
a drain; it is never in the file.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import trio

from proxyd import config_file
from proxyd.config import Config, ConfigError
from proxyd.control.protocol import ControlError, ErrorKind
from proxyd.endpoint import ListenEndpoint
from proxyd.relay.listener import RoutePort, Sessions
from proxyd.relay.listening import InheritedSockets, listen_on
from proxyd.relay.session import Surroundings
from proxyd.snapshot import one_more_route

# Each is a listening socket and a knowledge of its destination; an orchestrator that forgets them is stopped here.
MAX_ROUTES: Final = 256

# How long a route for one migration waits for it, unless it is told otherwise: an orchestrator starts the migration
# right after it has the address.
EXPIRES_S: Final = 600.0

# Metrics' name for routes that are like no route of the configuration.
LABEL: Final = "control"


class TemporaryRoutes:
    """The temporary routes of a daemon."""

    def __init__(self, sessions: Sessions, around: Surroundings, inherited: InheritedSockets) -> None:
        self._sessions = sessions
        self._around = around
        self._inherited = inherited
        self._ports: dict[str, RoutePort] = {}
        self._once: set[str] = set()
        self._adding = trio.Lock()
        self._closed = False

    def describe(self) -> list[dict[str, Any]]:
        """What ``proxyd route list`` shows of them."""
        return [
            {
                "name": name,
                "listen": str(port.address),
                "destination": str(port.route.destination),
                "temporary": True,
                "once": name in self._once,
            }
            for name, port in self._ports.items()
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
            return await self._add(config, table, nursery, once=once, expires_s=expires_s)

    async def _add(
        self, config: Config, table: dict[str, Any], nursery: trio.Nursery, *, once: bool, expires_s: float | None
    ) -> ListenEndpoint:
        if len(self._ports) >= MAX_ROUTES:
            raise ControlError(ErrorKind.REFUSED, f"at most {MAX_ROUTES} temporary routes expected, found another")
        like = table.pop("like", None)
        whole = self._completed(config, table, like)
        if whole.get("name") in self._ports:
            raise ControlError(ErrorKind.BAD_INPUT, f"there is a temporary route {whole['name']!r} already")
        try:
            # In a thread: files and knowledge take milliseconds, which belong to the migrations.
            route = await trio.to_thread.run_sync(
                lambda: one_more_route(config_file.with_route(config, whole), label=like or LABEL)
            )
        except ConfigError as error:
            raise ControlError(ErrorKind.BAD_INPUT, f"{error.key}: {error.message}") from error
        try:
            listeners = await listen_on(route.listen, self._inherited)
        except OSError as error:
            message = f"cannot listen on {route.listen}: {error.strerror}"
            raise ControlError(ErrorKind.REFUSED, message) from error
        if self._closed:
            listeners.close()
            raise ControlError(ErrorKind.REFUSED, "the daemon is draining")
        port = RoutePort(route, listeners, self._sessions, self._around)
        self._ports[route.name] = port
        nursery.start_soon(port.serve, nursery, name=f"port {port.address}")
        if once:
            self._once.add(route.name)
        if once or expires_s is not None:
            nursery.start_soon(self._expire, route.name, port, once, EXPIRES_S if expires_s is None else expires_s)
        return port.address

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
        if name not in self._ports:
            known = ", ".join(sorted(self._ports)) or "none"
            raise ControlError(ErrorKind.BAD_INPUT, f"a temporary route expected (there are: {known}), found {name!r}")
        self._once.discard(name)
        self._ports.pop(name).close()

    def close(self) -> None:
        """Close all of them, and open no more."""
        self._closed = True
        for name in tuple(self._ports):
            self.remove(name)

    async def _expire(self, name: str, port: RoutePort, once: bool, seconds: float) -> None:
        """Close the route when its time is over, but not under a migration: its channels may still come."""
        with trio.move_on_after(seconds):
            await port.migrated.wait() if once else await trio.sleep_forever()
        while not port.migrated.is_set() and port.is_busy:
            with trio.move_on_after(1):
                await port.migrated.wait()
        if self._ports.get(name) is port:
            self._around.journal.info("the temporary route is closed", route=name)
            self.remove(name)
