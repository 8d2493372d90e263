"""Where connections come in: the listening sockets of a route, and the book of the sessions that they began.

Decides only who may come in (``source_networks``, ``limits.connections``, the TLS handshake). What a connection is,
its session finds out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import trio

from proxyd.relay.channel import Leg, SocketLeg
from proxyd.relay.destination import NoDestination, destination_of
from proxyd.relay.listening import Listeners
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.record import SessionRecord
from proxyd.relay.session import MigrationSession, Surroundings
from proxyd.relay.tls_leg import HandshakeFailed, accept_tls
from proxyd.routes import Route
from proxyd.tls import ServerTls

# Ended migrations that ``proxyd status`` still shows, for whoever asks what became of one. The journal has all of them.
RECENT: Final = 32

# Channels end with their migration, and port probes all day.
_NOT_WORTH_KEEPING: Final = frozenset(
    {Outcome.NOT_MIGRATION, Outcome.DELIVERED, Outcome.SOURCE_GONE, Outcome.DESTINATION_GONE}
)


class Session(Protocol):
    """What the book needs of a session: :class:`~proxyd.relay.session.MigrationSession`, or one that was adopted."""

    @property
    def record(self) -> SessionRecord:
        """What is told of it."""

    @property
    def is_main(self) -> bool:
        """Whether it is a migration, as opposed to one of its channels or something else."""

    def facts(self) -> dict[str, Any]:
        """What there is to say of it at this moment."""

    def abandon(self, ending: Ending) -> bool:
        """End it, unless it is committed. Says whether it could."""

    async def run(self) -> Ending:
        """Carry it to its end."""


class Sessions:
    """The sessions that are running.

    :param limit: how many there may be at once (``limits.connections``); a reload changes it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.arriving = 0  # connections that shake hands
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._running: set[Session] = set()
        self._nobody = trio.Event()
        self._nobody.set()

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._running))

    def __len__(self) -> int:
        return len(self._running)

    @property
    def is_full(self) -> bool:
        """Whether the next connection is one too many."""
        return len(self._running) + self.arriving >= self.limit

    async def run(self, session: Session) -> Ending:
        """Run a session, and know of it while it runs."""
        self._running.add(session)
        if self._nobody.is_set():
            self._nobody = trio.Event()
        try:
            ending = await session.run()
            if session.is_main or ending.outcome not in _NOT_WORTH_KEEPING:
                self._keep(session, ending)
            return ending
        finally:
            self._running.discard(session)
            if not self._running:
                self._nobody.set()

    def _keep(self, session: Session, ending: Ending) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        facts = {key: value for key, value in session.facts().items() if key not in {"phase", "held_bytes"}}
        self.recent.append({"ended": at, "outcome": ending.outcome.value, "reason": ending.reason, **facts})

    def find(self, ident: str) -> Session | None:
        """The migration with this id."""
        return next((one for one in self._running if one.is_main and one.record.migration == ident), None)

    def abandon(self, ending: Ending) -> int:
        """Abandon every session that is not committed. Returns how many that were."""
        return sum(session.abandon(ending) for session in self)

    async def wait_none(self) -> None:
        """Until no session runs."""
        await self._nobody.wait()


class RoutePort:
    """What one route listens on. ``route`` is for the connections that come next; a reload replaces it."""

    def __init__(self, route: Route, listeners: Listeners, sessions: Sessions, around: Surroundings) -> None:
        self.route = route
        self.address = listeners.endpoint
        self._listeners = listeners
        self._sessions = sessions
        self._around = around
        self._scope = trio.CancelScope()
        self._serving = 0
        self.migrated = trio.Event()  # a migration that came in here has ended

    async def serve(self, sessions_nursery: trio.Nursery) -> None:
        """Accept until :meth:`close`.

        Resource handling: closes the listening sockets on the way out. Sessions live in ``sessions_nursery``, so they
        outlive their listener.

        Error handling: running out of file descriptors is waited out (trio.serve_listeners does); anything else
        ends the daemon.
        """
        with self._scope:
            await trio.serve_listeners(self._accept, self._listeners.listeners, handler_nursery=sessions_nursery)

    @property
    def is_busy(self) -> bool:
        """Whether a connection that came in here is being served."""
        return self._serving > 0

    def close(self) -> None:
        """Take no more connections: the kernel answers with RST from now on, and a source's guest stays where it is."""
        # The cancellation comes first, so that the task does not see its socket closed.
        self._scope.cancel()
        self._listeners.close()

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            leg = SocketLeg.take(stream)
        except OSError as error:
            # Gone between accept and the first option: a port probe.
            self._around.metrics.count_migration(self.route.metrics_label, Outcome.NOT_MIGRATION.value)
            self._around.journal.debug(f"a connection broke while it was accepted: {error}", route=self.route.name)
            return
        await self.take(leg)

    async def take(self, leg: SocketLeg) -> None:
        """Begin a session for a connection, unless it may not come in."""
        route = self.route
        # Before any handshake: they do not end in the order in which they began.
        accepted = self._around.migrations.next_place()
        refusal = self._refusal(route, leg.host)
        if refusal is None:
            try:
                towards = destination_of(route, leg)
                secured = leg if route.source_tls is None else await self._shake_hands(leg, route, route.source_tls)
            except NoDestination as error:
                refusal = Ending(Outcome.DESTINATION_UNREACHABLE, str(error))
            except HandshakeFailed as error:
                refusal = Ending(Outcome.NOT_MIGRATION if error.silent else Outcome.TLS_FAILED, str(error))
        if refusal is not None:
            leg.abort()
            self._turned_away(route, leg.peer, refusal)
            return
        session = MigrationSession(secured, route, self._around, towards, accepted)
        self._serving += 1
        try:
            await self._sessions.run(session)
        finally:
            self._serving -= 1
        if session.is_main:
            self.migrated.set()

    async def _shake_hands(self, leg: SocketLeg, route: Route, tls: ServerTls) -> Leg:
        """Raises :class:`HandshakeFailed`."""
        self._sessions.arriving += 1
        try:
            with trio.move_on_after(route.times.header_s):
                secured, identity = await accept_tls(leg, tls)
                self._around.journal.debug("TLS", route=route.name, source=leg.peer, identity=identity)
                return secured
        finally:
            self._sessions.arriving -= 1
        raise HandshakeFailed(f"no TLS handshake within {route.times.header_s:g} s (limits.header_time_s)")

    def _turned_away(self, route: Route, peer: str, ending: Ending) -> None:
        self._around.metrics.count_migration(route.metrics_label, ending.outcome.value)
        tell = self._around.journal.debug if ending.outcome is Outcome.NOT_MIGRATION else self._around.journal.warning
        tell(f"{ending.outcome.value}: {ending.reason}", outcome=ending.outcome.value, route=route.name, source=peer)

    def _refusal(self, route: Route, host: str | None) -> Ending | None:
        if not route.admits(host):
            accepted = ", ".join(map(str, route.networks))
            reason = f"expected a source in {accepted} (source_networks), found {host}"
            return Ending(Outcome.SOURCE_NOT_ALLOWED, reason)
        if self._sessions.is_full:
            reason = f"{len(self._sessions)} connections are served, as many as limits.connections accepts"
            return Ending(Outcome.TOO_MANY_CONNECTIONS, reason)
        return None
