"""Where connections come in: one listening socket per route, and the book of the sessions that it began.

Decides only who may come in (``source_networks``, ``limits.connections``). What a connection is, its session finds out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import trio

from proxyd.endpoint import Address
from proxyd.relay.channel import Leg, SocketLeg
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.session import MigrationSession, Surroundings
from proxyd.relay.transport import bound_receive_queue
from proxyd.routes import Route

# A source connects once per migration; a burst of this many within one turn of the event loop is no migration.
BACKLOG: Final = 128


class Sessions:
    """The sessions that are running.

    :param limit: how many there may be at once (``limits.connections``); a reload changes it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._running: set[MigrationSession] = set()
        self._nobody = trio.Event()
        self._nobody.set()

    def __iter__(self) -> Iterator[MigrationSession]:
        return iter(tuple(self._running))

    def __len__(self) -> int:
        return len(self._running)

    @property
    def is_full(self) -> bool:
        """Whether the next connection is one too many."""
        return len(self._running) >= self.limit

    async def run(self, session: MigrationSession) -> Ending:
        """Run a session, and know of it while it runs."""
        self._running.add(session)
        if self._nobody.is_set():
            self._nobody = trio.Event()
        try:
            return await session.run()
        finally:
            self._running.discard(session)
            if not self._running:
                self._nobody.set()

    def abandon(self, ending: Ending) -> int:
        """Abandon every session that is not committed. Returns how many that were."""
        return sum(session.abandon(ending) for session in self)

    async def wait_none(self) -> None:
        """Until no session runs."""
        await self._nobody.wait()


class RoutePort:
    """One listening socket. ``route`` is for the connections that come next; a reload replaces it."""

    def __init__(self, route: Route, listener: trio.SocketListener, sessions: Sessions, around: Surroundings) -> None:
        self.route = route
        host, port = listener.socket.getsockname()[:2]
        self.address = Address(host, port)
        self._listener = listener
        self._sessions = sessions
        self._around = around
        self._scope = trio.CancelScope()

    async def serve(self, sessions_nursery: trio.Nursery) -> None:
        """Accept until :meth:`close`.

        Resource handling: closes the listening socket on the way out. Sessions live in ``sessions_nursery``, so they
        outlive their listener.

        Error handling: running out of file descriptors is waited out (trio.serve_listeners does); anything else
        ends the daemon.
        """
        with self._scope:
            await trio.serve_listeners(self._accept, [self._listener], handler_nursery=sessions_nursery)

    def close(self) -> None:
        """Take no more connections: the kernel answers with RST from now on, and a source's guest stays where it is."""
        # The cancellation comes first, so that the task does not see its socket closed.
        self._scope.cancel()
        self._listener.socket.close()

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            leg = SocketLeg.take(stream)
        except OSError as error:
            # Gone between accept and the first option: a port probe.
            self._around.metrics.count_migration(self.route.name, Outcome.NOT_MIGRATION.value)
            self._around.journal.debug(f"a connection broke while it was accepted: {error}", route=self.route.name)
            return
        await self.take(leg, leg.getpeername()[0])

    async def take(self, leg: Leg, host: str) -> None:
        """Begin a session for a connection from ``host``, unless it may not come in."""
        route = self.route
        refusal = self._refusal(route, host)
        if refusal is not None:
            leg.abort()
            self._around.metrics.count_migration(route.name, refusal.outcome.value)
            self._around.journal.warning(
                f"{refusal.outcome.value}: {refusal.reason}",
                outcome=refusal.outcome.value,
                route=route.name,
                source=leg.peer,
            )
            return
        session = MigrationSession(leg, route, self._around)
        await self._sessions.run(session)

    def _refusal(self, route: Route, host: str) -> Ending | None:
        if not route.admits(host):
            accepted = ", ".join(map(str, route.networks))
            reason = f"expected a source in {accepted} (source_networks), found {host}"
            return Ending(Outcome.SOURCE_NOT_ALLOWED, reason)
        if self._sessions.is_full:
            reason = f"{len(self._sessions)} sessions are running, as many as limits.connections accepts"
            return Ending(Outcome.TOO_MANY_CONNECTIONS, reason)
        return None


async def open_port(address: Address) -> trio.SocketListener:
    """Bind and listen on one IP address.

    :raises OSError: it is taken, or not this machine's.
    """
    (listener,) = await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
    bound_receive_queue(listener.socket)
    return listener
