"""Where a running daemon can be reached: the ports of its routes, its metrics and its control socket.

They are opened all or none, and a reload replaces them without a moment in which one that stays is closed. What comes
in through them is others' business: :mod:`proxyd.relay.listener` and :mod:`proxyd.control.server`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import trio

from proxyd.endpoint import Address, ListenEndpoint, UnixPath
from proxyd.metrics import Metrics, MetricsServer
from proxyd.relay.listener import RoutePort, Sessions
from proxyd.relay.listening import InheritedSockets, Listeners, listen_on
from proxyd.relay.session import Surroundings
from proxyd.routes import Route
from proxyd.snapshot import Snapshot


class CannotListen(Exception):
    """A port of ours cannot be bound. ``str()`` is one sentence with the configuration key."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a running daemon can be reached; with port 0 in the configuration, the kernel chose."""

    routes: dict[str, ListenEndpoint]
    metrics: Address


class Ports:
    """The ports of a configuration: :meth:`open` them, :meth:`serve` them, :meth:`replace` or :meth:`close` them."""

    def __init__(self, sessions: Sessions, around: Surroundings, inherited: InheritedSockets) -> None:
        self.control: Listeners | None = None
        self._sessions = sessions
        self._around = around
        self._inherited = inherited
        self._routes: dict[str, RoutePort] = {}
        self._server: MetricsServer

    async def open(self, snapshot: Snapshot) -> None:
        """Bind every port.

        :raises CannotListen: one of them cannot be bound; none stays open.
        """
        self._routes = await self._open_routes(snapshot.routes)
        try:
            self.control = await self._open_control(snapshot.config.control.socket)
            self._server = _open_metrics(self._around.metrics, snapshot.config.metrics_address)
        except CannotListen:
            self.close()
            if self.control is not None:
                self.control.close()
            raise

    def __iter__(self) -> Iterator[RoutePort]:
        return iter(self._routes.values())

    def __len__(self) -> int:
        return len(self._routes)

    @property
    def listening(self) -> Listening:
        """Where the daemon can be reached."""
        return Listening({port.route.name: port.address for port in self}, self._server.address)

    def describe(self) -> list[dict[str, Any]]:
        """The configuration's routes, as ``proxyd status`` shows them."""
        return [
            {
                "name": port.route.name,
                "listen": str(port.address),
                "destination": str(port.route.destination),
                "temporary": False,
                "once": False,
            }
            for port in self
        ]

    def serve(self, nursery: trio.Nursery) -> None:
        """Take connections on the routes' ports, in tasks of ``nursery``."""
        for port in self:
            nursery.start_soon(port.serve, nursery, name=f"port {port.address}")

    async def replace(
        self, snapshot: Snapshot, nursery: trio.Nursery, check: Callable[[], None]
    ) -> MetricsServer | None:
        """Open what is new, then change over without waiting, then close what is gone.

        :param check: called before anything changes; what it raises leaves everything as it was.
        :returns: the server of metrics that is to be closed, which takes a moment.
        :raises CannotListen: nothing has changed.
        """
        wanted = {_key(route): route for route in snapshot.routes}
        opened = await self._open_routes([route for key, route in wanted.items() if key not in self._routes])
        before = self._server
        try:
            check()
            if snapshot.config.metrics_address != before.listen:
                self._server = _open_metrics(self._around.metrics, snapshot.config.metrics_address)
        except CannotListen:
            _close(opened)
            raise
        for port in opened.values():
            nursery.start_soon(port.serve, nursery, name=f"port {port.address}")
        for key in self._routes.keys() - wanted.keys():
            self._routes.pop(key).close()
        self._routes |= opened
        for key, port in self._routes.items():
            port.route = wanted[key]
        return None if self._server is before else before

    def close(self) -> None:
        """Take no more connections on the routes' ports."""
        _close(self._routes)

    async def close_metrics(self) -> None:
        """Answer no more scrapes. Not to be cancelled."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._server.close)

    async def _open_control(self, path: str | None) -> Listeners | None:
        if path is None:
            return None
        try:
            return await listen_on(UnixPath(path), self._inherited)
        except OSError as error:
            raise CannotListen(f"control.socket: cannot listen on {path}: {error.strerror}") from error

    async def _open_routes(self, routes: Iterable[Route]) -> dict[str, RoutePort]:
        ports: dict[str, RoutePort] = {}
        for route in routes:
            try:
                listeners = await listen_on(route.listen, self._inherited)
            except OSError as error:
                _close(ports)
                raise CannotListen(f"route {route.name}: cannot listen on {route.listen}: {error.strerror}") from error
            ports[_key(route)] = RoutePort(route, listeners, self._sessions, self._around)
        return ports


def _key(route: Route) -> str:
    """What makes a port the same port after a reload: its address, or with port 0 its route."""
    return str(route.listen) if not str(route.listen).endswith(":0") else f"{route.listen} {route.name}"


def _open_metrics(metrics: Metrics, listen: Address) -> MetricsServer:
    try:
        return MetricsServer(metrics, listen)
    except OSError as error:
        raise CannotListen(f"metrics.listen: cannot listen on {listen}: {error.strerror}") from error


def _close(ports: dict[str, RoutePort]) -> None:
    for port in ports.values():
        port.close()
