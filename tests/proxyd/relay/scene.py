"""A scene for tests of several connections: sources that connect, and a destination that takes what is dialled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from proxyd.endpoint import Dialled
from proxyd.metrics import Metrics
from proxyd.relay.channel import DestinationUnreachable
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.session import MigrationSession
from proxyd.relay.surroundings import Surroundings
from proxyd.rewrite.firewall import NO_FIREWALL
from tests.proxyd.relay.legs import MemoryLeg, leg_pair
from tests.proxyd.relay.stage import ScriptedRewriter, a_journal, a_route


class Scene:
    """Sources that connect, and a destination that takes connections in the order in which they are dialled."""

    def __init__(self, nursery: trio.Nursery, *, advised: bool = False, machine: str = "virt-10.0") -> None:
        self.metrics = Metrics()
        journal, self.told = a_journal()
        self.advised = advised
        self.machine = machine
        self.rewriters: list[ScriptedRewriter] = []
        self.refuse_after: int | None = None
        self.capacity: int | None = None  # bytes that a connection to the destination holds before it is read
        self.page_size: int | None = 4096
        self.firewall = NO_FIREWALL
        self.places = 100  # for connections of migrations
        self.may_connect = trio.Event()
        self.may_connect.set()
        self._around = Surroundings(self.metrics, journal, lambda _route: self._rewriter(), self._dial)
        self._nursery = nursery
        self._dialled: list[MemoryLeg] = []
        self._send, self._receive = trio.open_memory_channel[MemoryLeg](100)
        self.endings: dict[str, Ending] = {}
        self.legs: list[MemoryLeg] = []

    def _rewriter(self) -> ScriptedRewriter:
        one = ScriptedRewriter()
        one.postcopy_advised = self.advised
        one.machine = self.machine
        one.page_size = self.page_size
        self.rewriters.append(one)
        return one

    async def _dial(self, _address: Dialled, _timeout_s: float) -> MemoryLeg:
        await self.may_connect.wait()
        if self.refuse_after is not None and len(self._dialled) >= self.refuse_after:
            raise DestinationUnreachable("nobody is there")
        destination, leg = leg_pair("destination:2", "proxyd", self.capacity, exact=True)
        self._dialled.append(destination)
        await self._send.send(destination)
        return leg

    def connect(self, name: str, host: str = "192.0.2.1") -> MemoryLeg:
        """A connection from a source; it is accepted at once."""
        source, leg = leg_pair("proxyd", f"{host}:1000")
        leg.peer = f"{host}:1000"
        leg.origin = host
        self.legs.append(source)
        session = MigrationSession(leg, a_route(firewall=self.firewall), self._around, admit=self._admit)

        async def run() -> None:
            self.endings[name] = await session.run()

        self._nursery.start_soon(run)
        return source

    def _admit(self) -> Ending | None:
        self.places -= 1
        return None if self.places >= 0 else Ending(Outcome.TOO_MANY_CONNECTIONS, "no place is left")

    async def accepted(self) -> MemoryLeg:
        """The next connection at the destination."""
        with trio.fail_after(1000):
            return await self._receive.receive()

    @property
    def dialled(self) -> int:
        return len(self._dialled)

    async def ended(self, *names: str) -> list[str]:
        with trio.fail_after(1000):
            while not all(name in self.endings for name in names):
                await trio.sleep(1)
        return [self.endings[name].outcome.value for name in names]

    async def done(self) -> None:
        for leg in (*self.legs, *self._dialled):
            leg.abort()


@asynccontextmanager
async def a_scene(*, advised: bool = False, machine: str = "virt-10.0") -> AsyncIterator[Scene]:
    async with trio.open_nursery() as nursery:
        scene = Scene(nursery, advised=advised, machine=machine)
        try:
            yield scene
        finally:
            await scene.done()
            nursery.cancel_scope.cancel()
