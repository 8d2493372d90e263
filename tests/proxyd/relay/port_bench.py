"""A port under test, on a real socket, and the destination's door behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from proxyd.endpoint import Address
from proxyd.metrics import Metrics
from proxyd.relay.listener import RoutePort, Sessions
from proxyd.relay.listening import InheritedSockets, listen_on
from proxyd.relay.surroundings import Surroundings
from proxyd.routes import Route
from tests.proxyd.relay.stage import ScriptedRewriter, Told, a_journal, a_route, value
from tests.proxyd.relay.wires import Door, a_door, connect, reset


class Bench:
    """A port under test, and the destination's door behind it."""

    def __init__(self, port: RoutePort, door: Door, sessions: Sessions, metrics: Metrics, told: Told) -> None:
        self.port = port
        self.door = door
        self.sessions = sessions
        self.metrics = metrics
        self.told = told
        self._sources: list[trio.SocketStream] = []

    async def source(self) -> trio.SocketStream:
        stream = await connect(self.port.address.host, self.port.address.port)
        self._sources.append(stream)
        return stream

    def slam(self) -> None:
        """Reset what the test left open."""
        for stream in self._sources:
            reset(stream)
        self.door.slam()

    async def strangers(self, count: int) -> None:
        """Wait until there are so many."""
        with trio.fail_after(10):
            while len(self.sessions.strangers) < count:
                await trio.sleep(0.001)

    async def displaced(self, count: int) -> None:
        """Wait until so many strangers had to go."""
        with trio.fail_after(10):
            while self.sessions.strangers.displaced < count:
                await trio.sleep(0.001)

    def count(self, outcome: str) -> float:
        return value(self.metrics, "proxyd_migrations_total", route="lab", outcome=outcome)

    async def outcome(self, outcome: str, times: int = 1) -> None:
        """Wait until so many sessions have ended like this."""
        with trio.fail_after(10):
            while self.count(outcome) < times:
                await trio.sleep(0.001)


@asynccontextmanager
async def a_bench(
    *,
    limit: int = 64,
    silent_limit: int = 64,
    make_route: Callable[..., Route] = a_route,
    listen: str = "127.0.0.1",
) -> AsyncIterator[Bench]:
    metrics = Metrics()
    journal, told = a_journal()
    sessions = Sessions(limit, silent_limit)
    around = Surroundings(metrics, journal, lambda _route: ScriptedRewriter())
    async with a_door() as door, trio.open_nursery() as nursery:
        route = make_route(destination=Address(door.host, door.port))
        port = RoutePort(route, await listen_on(Address(listen, 0), InheritedSockets({})), sessions, around)
        nursery.start_soon(port.serve, nursery)
        bench = Bench(port, door, sessions, metrics, told)
        try:
            yield bench
        finally:
            bench.slam()
            nursery.cancel_scope.cancel()
