"""Where connections come in: the listening sockets of a route, and the book of the sessions that they began.

Decides only who may come in (``source_networks``, ``limits.silent_connections`` and ``connections``, the TLS
handshake). What a connection is, its session finds out.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import trio

from proxyd.config import LimitsConfig
from proxyd.relay.channel import Leg, SocketLeg
from proxyd.relay.destination import NoDestination, destination_of
from proxyd.relay.listening import Listeners
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.record import SessionRecord
from proxyd.relay.session import MigrationSession
from proxyd.relay.strangers import Stranger, Strangers
from proxyd.relay.surroundings import Surroundings
from proxyd.relay.tls_leg import HandshakeFailed, accept_tls
from proxyd.routes import Route

# Ended migrations that ``proxyd status`` still shows, for whoever asks what became of one. The journal has all of them.
RECENT: Final = 32

# Channels end with their migration, and port probes all day.
_NOT_WORTH_KEEPING: Final = frozenset(
    {Outcome.NOT_MIGRATION, Outcome.DELIVERED, Outcome.SOURCE_GONE, Outcome.DESTINATION_GONE}
)

# Port probes, and strangers that are displaced, come by the thousand; metrics count them.
_ALL_DAY_LONG: Final = frozenset({Outcome.NOT_MIGRATION, Outcome.TOO_MANY_CONNECTIONS})


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

    def forget(self) -> None:
        """It has ended, and its facts are known: let go of what is large."""


class Sessions:
    """The sessions that are running.

    :param limit: how many of migrations there may be at once (``limits.connections``); a reload changes it.
    :param silent_limit: how many connections that have not shown yet what they are (``limits.silent_connections``).
    """

    def __init__(self, limit: int, silent_limit: int = LimitsConfig().silent_connections) -> None:
        self.limit = limit
        self.admitted = 0  # connections of migrations
        self.strangers = Strangers(silent_limit)
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._running: set[Session] = set()
        self._nobody = trio.Event()
        self._nobody.set()

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._running))

    def __len__(self) -> int:
        return len(self._running)

    @contextmanager
    def arrival(self, origin: str) -> Iterator[Stranger]:
        """While a connection is here: a stranger, until :meth:`admit`."""
        stranger = self.strangers.enter(origin)
        try:
            yield stranger
        finally:
            self.strangers.leave(stranger)
            self.admitted -= stranger.admitted

    def admit(self, stranger: Stranger) -> Ending | None:
        """It has shown that it is a migration, or a channel of one. Returns why it may not be served."""
        if stranger.ending is not None:
            return stranger.ending
        if self.admitted >= self.limit:
            reason = f"{self.admitted} connections of migrations are served, as many as limits.connections accepts"
            return Ending(Outcome.TOO_MANY_CONNECTIONS, reason)
        self.strangers.leave(stranger)
        stranger.admitted = True
        self.admitted += 1
        return None

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
            session.forget()
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


@dataclass(eq=False, slots=True)
class _Guest:
    """A connection that came in; ``session`` is None while it shakes hands."""

    origin: str
    session: MigrationSession | None = None

    @property
    def is_growing(self) -> bool:
        """Whether more connections may come that belong to it."""
        return self.session is None or self.session.is_growing


class RoutePort:
    """What one route listens on. ``route`` is for the connections that come next; a reload replaces it."""

    def __init__(self, route: Route, listeners: Listeners, sessions: Sessions, around: Surroundings) -> None:
        self.route = route
        self.address = listeners.endpoint
        self._listeners = listeners
        self._sessions = sessions
        self._around = around
        self._scope = trio.CancelScope()
        self._is_served = False
        self._guests: set[_Guest] = set()
        self._pass_on: Callable[[socket.socket], Awaitable[bool]] | None = None
        self.migrated = trio.Event()  # a migration that came in here has ended

    async def serve(self, sessions_nursery: trio.Nursery) -> None:
        """Accept until :meth:`close`. Does nothing where another task does it already.

        Resource handling: closes the listening sockets on the way out. Sessions live in ``sessions_nursery``, so they
        outlive their listener.

        Error handling: running out of file descriptors is waited out (trio.serve_listeners does); anything else
        ends the daemon.
        """
        if self._is_served:
            return
        self._is_served = True
        with self._scope:
            await trio.serve_listeners(self._accept, self._listeners.listeners, handler_nursery=sessions_nursery)

    @property
    def is_busy(self) -> bool:
        """Whether a connection that came in here is being served."""
        return bool(self._guests)

    @property
    def is_growing(self) -> bool:
        """Whether a migration that came in here may get more channels."""
        return any(guest.is_growing for guest in self._guests)

    @property
    def descriptors(self) -> list[int]:
        """Of the listening sockets."""
        return self._listeners.descriptors

    def pass_on(self, give: Callable[[socket.socket], Awaitable[bool]]) -> None:
        """From now on keep only what may belong to a migration that came in here, and ``give`` away the rest."""
        self._pass_on = give

    def release(self) -> None:
        """As :meth:`close`, when another process accepts on the same sockets: nobody is refused."""
        self._scope.cancel()
        self._listeners.release()

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
        if self._pass_on is not None and not any(
            guest.is_growing and guest.origin == leg.origin for guest in self._guests
        ):
            sock = leg.detach()
            if await self._pass_on(sock):
                sock.close()
                return
            leg = SocketLeg(sock)
        await self.take(leg)

    def begin(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        """Begin a session, in a task of ``nursery``, for a connection that another process has accepted."""
        nursery.start_soon(self._accept, trio.SocketStream(trio.socket.from_stdlib_socket(sock)))

    async def take(self, leg: SocketLeg) -> None:
        """Begin a session for a connection, unless it may not come in."""
        route = self.route
        # Before any handshake: they do not end in the order in which they began.
        accepted = self._around.migrations.next_place()
        guest = _Guest(leg.origin)
        self._guests.add(guest)
        try:
            await self._take(leg, route, accepted, guest)
        finally:
            self._guests.discard(guest)
        if guest.session is not None and guest.session.is_main:
            self.migrated.set()

    async def _take(self, leg: SocketLeg, route: Route, accepted: int, guest: _Guest) -> None:
        if not route.admits(leg.host):
            networks = ", ".join(map(str, route.networks))
            reason = f"expected a source in {networks} (source_networks), found {leg.host}"
            self._turn_away(leg, route, Ending(Outcome.SOURCE_NOT_ALLOWED, reason))
            return
        with self._sessions.arrival(leg.origin) as stranger:
            try:
                towards = destination_of(route, leg)
                secured = await self._secured(leg, route, stranger)
            except NoDestination as error:
                self._turn_away(leg, route, Ending(Outcome.DESTINATION_UNREACHABLE, str(error)))
                return
            except HandshakeFailed as error:
                failed = Ending(Outcome.NOT_MIGRATION if error.silent else Outcome.TLS_FAILED, str(error))
                self._turn_away(leg, route, stranger.ending or failed)
                return
            session = MigrationSession(
                secured, route, self._around, towards, accepted, lambda: self._sessions.admit(stranger)
            )
            guest.session = session
            stranger.turn_away = session.abandon
            stranger.spoke = lambda: session.spoke
            await self._sessions.run(session)

    async def _secured(self, leg: SocketLeg, route: Route, stranger: Stranger) -> Leg:
        """The leg itself, or TLS on it. Raises :class:`HandshakeFailed`."""
        tls = route.source_tls
        if tls is None:
            return leg
        with trio.move_on_after(route.times.header_s) as scope:
            stranger.turn_away = lambda _ending: scope.cancel()
            secured, identity = await accept_tls(leg, tls)
            if stranger.ending is not None:
                secured.abort()
                raise HandshakeFailed(stranger.ending.reason)
            self._around.journal.debug("TLS", route=route.name, source=leg.peer, identity=identity)
            return secured
        raise HandshakeFailed(f"no TLS handshake within {route.times.header_s:g} s (limits.header_time_s)")

    def _turn_away(self, leg: SocketLeg, route: Route, ending: Ending) -> None:
        leg.abort()
        self._around.metrics.count_migration(route.metrics_label, ending.outcome.value)
        quiet = ending.outcome in _ALL_DAY_LONG
        tell = self._around.journal.debug if quiet else self._around.journal.warning
        fields = {"outcome": ending.outcome.value, "route": route.name, "source": leg.peer}
        tell(f"{ending.outcome.value}: {ending.reason}", **fields)
