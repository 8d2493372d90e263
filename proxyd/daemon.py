"""The daemon: the one place where everything meets.

Start, reload, drain, upgrade, and nothing about bytes or registers. :mod:`proxyd.service` is the process around it.

*Start*: configuration, files and ports first; the service manager hears READY when the last port listens.

*Reload*: a new snapshot is built and its new ports are bound before anything changes. If any of that fails, nothing
changes at all. Running sessions keep the route that they began with, even if it is gone.

*Drain*: the ports close, so new sources get RST and keep their guests. Migrations before their commit point may go on
for ``limits.drain_time_s`` and are then reset, which makes their sources resume. Migrations past it are waited for
without limit. A second SIGTERM ends the waiting for the first kind, never for the second.

*Upgrade*: another process is started, gets every listening socket, and serves from then on. This one finishes the
sessions that it has, without a limit, and ends. If the other one is not ready in time nothing changes at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from proxyd import config_file as configuration
from proxyd import journal as logs
from proxyd.config import ConfigError
from proxyd.control.protocol import ControlError, ErrorKind
from proxyd.control.server import CLIENT_TIME_S, ControlServer
from proxyd.descriptor_store import ServiceManagerStore
from proxyd.descriptors import put_in_force
from proxyd.endpoint import ListenEndpoint
from proxyd.journal import Journal
from proxyd.line_writer import LineWriter
from proxyd.metrics import Metrics
from proxyd.operations import commands
from proxyd.ports import CannotListen, Listening, Ports
from proxyd.predecessor import Inheritance, Predecessor
from proxyd.relay.adoption import adopt
from proxyd.relay.intake import RewriterFactory, rewriter_for
from proxyd.relay.keeping import NAME_PREFIX
from proxyd.relay.listener import Sessions
from proxyd.relay.listening import InheritedSockets
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.surroundings import Surroundings
from proxyd.rewrite.rewriter import Phase
from proxyd.service_notify import ServiceNotifier
from proxyd.snapshot import Snapshot, remarks
from proxyd.successor import UpgradeFailed
from proxyd.temporary_routes import TemporaryRoutes
from proxyd.upgrade import Upgrade
from proxyd.witness import Witnesses


def _read(path: Path) -> Snapshot:
    """Raises OSError and ConfigError."""
    return Snapshot.build(configuration.load(path))


class Daemon:
    """A running proxyd: :meth:`open`, then :meth:`run`; :meth:`reload` and the like from any task meanwhile.

    :param command: what starts the process that is to take this one's place.
    :param predecessor: the process whose place this one takes, with what it has left.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        notifier: ServiceNotifier,
        journal: Journal | None = None,
        make_rewriter: RewriterFactory = rewriter_for,
        inherited: InheritedSockets | None = None,
        store: ServiceManagerStore | None = None,
        lines: LineWriter | None = None,
        command: Sequence[str] = (),
        predecessor: tuple[Predecessor, Inheritance] | None = None,
    ) -> None:
        self._lines = lines
        self._inherited = inherited or InheritedSockets({})
        self._store = store
        self.snapshot = snapshot
        self.metrics = Metrics()
        self.sessions = Sessions(snapshot.config.limits.connections)
        self._notifier = notifier
        self._journal = journal or Journal()
        self._witnesses = Witnesses(self._journal)
        self._around = Surroundings(self.metrics, self._journal, make_rewriter, store=store, witness=self._witnesses)
        put_in_force(snapshot.config.limits, self.sessions, self._around.held, self._journal)
        self.metrics.watch_strangers(lambda: len(self.sessions.strangers))
        handed = None if predecessor is None else predecessor[1].sockets
        self.ports = Ports(self.sessions, self._around, self._inherited, handed)
        self.temporary = TemporaryRoutes(self.sessions, self._around, self._inherited)
        self._takeover = Upgrade(self.ports, self.temporary, command, predecessor)
        self.started = time.monotonic()
        self.last_reload_error: str | None = None
        self._control: ControlServer | None = None
        self._nursery: trio.Nursery | None = None
        self._drain_asked = False
        self._ending = trio.Event()
        self._changing = trio.Lock()  # one reload, upgrade or change of routes at a time
        self._patience = trio.CancelScope()

    def adopt(self, nursery: trio.Nursery) -> None:
        """Go on with the migrations that another process has left; needs no port. They live in ``nursery``."""
        if self._store is not None:
            nursery.start_soon(self._store.run, name="descriptor store")
        for migration in adopt(self._inherited.take(NAME_PREFIX), self._store, self.metrics, self._journal):
            nursery.start_soon(self.sessions.run, migration)

    async def open(self) -> None:
        """Bind every port.

        :raises CannotListen: one of them cannot be bound; none stays open.
        """
        with self._witnesses.configured(self.snapshot.config):
            await self.ports.open(self.snapshot)
        if self.ports.control is not None:
            self._control = ControlServer(self.ports.control, commands(self), self._journal)

    @property
    def listening(self) -> Listening:
        """Where the daemon can be reached."""
        return self.ports.listening

    @property
    def draining(self) -> bool:
        """Whether it takes no more connections and ends with the last one."""
        return self._ending.is_set()

    async def add_route(self, table: dict[str, Any], *, once: bool, expires_s: float | None) -> ListenEndpoint:
        """Open a temporary route. Raises :class:`~proxyd.control.protocol.ControlError`."""
        async with self._changing:
            if self._nursery is None or self.draining:
                raise ControlError(ErrorKind.REFUSED, "the daemon is draining")
            return await self.temporary.add(self.snapshot.config, table, self._nursery, once=once, expires_s=expires_s)

    async def remove_route(self, name: str) -> None:
        """Close a temporary route. Raises :class:`~proxyd.control.protocol.ControlError`."""
        async with self._changing:
            self.temporary.remove(name)

    async def run(self, on_ready: Callable[[Listening], object] | None = None) -> None:
        """Serve until a drain is over, or the last session after an upgrade.

        :raises CannotTakeOver: the predecessor stays.

        Resource handling: closes everything that :meth:`open` opened. If it is cancelled, sessions that are not
        committed are reset; those that are go on, and it returns when they have ended.

        Error handling: a session's errors stay in the session. What else goes wrong is a bug and is raised.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._takeover.serve(self.snapshot.config, nursery)
                nursery.start_soon(self._notifier.keep_alive, name="watchdog")
                if self._control is not None:
                    nursery.start_soon(self._control.serve, name="control socket")
                self._in_force()
                self._notifier.ready(self._status())
                if on_ready is not None:
                    on_ready(self.listening)
                nursery.start_soon(self._takeover.take_connections, nursery, lambda: not self.draining)
                await self._ending.wait()
                if self._takeover.successor is not None:
                    await self._finish(self._takeover.successor.pid)
                else:
                    await self._drain()
                nursery.cancel_scope.cancel()
        finally:
            self.temporary.close()
            if self._control is not None:
                self._control.close()
            await self.ports.close_metrics()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._witnesses.close)

    # Reload.

    async def reload(self) -> bool:
        """Read the configuration again, and put it in force whole or not at all. Says whether it is in force.

        One at a time: a signal and an operator at the control socket may ask at once, and what was read first must
        not come into force last.
        """
        async with self._changing:
            self._notifier.reloading()
            try:
                self._check_not_draining()
                # In a thread: files and knowledge take milliseconds, which belong to the migrations.
                snapshot = await trio.to_thread.run_sync(_read, self.snapshot.config.path)
                await self._replace(snapshot)
            except OSError as error:
                return self._reload_refused(f"cannot read {self.snapshot.config.path}: {error.strerror}")
            except (ConfigError, CannotListen) as error:
                return self._reload_refused(str(error))
            self.last_reload_error = None
            self._journal.info("reloaded")
            self._in_force()
            self.metrics.count_reload(applied=True)
            self._notifier.ready(self._status())
            return True

    def _reload_refused(self, reason: str) -> bool:
        self.last_reload_error = reason
        self._journal.error(f"reload refused, nothing changed: {reason}")
        self.metrics.count_reload(applied=False)
        self._notifier.ready(f"{self._status()}; the last reload was refused: {reason}")
        return False

    async def _replace(self, snapshot: Snapshot) -> None:
        assert self._nursery is not None, "reload() is for a daemon that runs"  # noqa: S101
        with self._witnesses.configured(snapshot.config):
            replaced = await self.ports.replace(snapshot, self._nursery, self._check_not_draining)
        if snapshot.config.control != self.snapshot.config.control:
            self._journal.warning("control.socket is another one after a restart, not after a reload")
        self.snapshot = snapshot
        put_in_force(snapshot.config.limits, self.sessions, self._around.held, self._journal)
        logs.configure(snapshot.config.log, self._lines)
        if replaced is not None:
            await trio.to_thread.run_sync(replaced.close)

    def _check_not_draining(self) -> None:
        if self._takeover.successor is not None:
            raise CannotListen(f"process {self._takeover.successor.pid} has taken this one's place")
        if self.draining:
            raise CannotListen("the daemon is draining")

    def _in_force(self) -> None:
        """Tell what is in force now."""
        self.metrics.set_loaded(time.time())
        for port in self.ports:
            self.metrics.declare_route(port.route.name, outcomes=list(Outcome), phases=list(Phase))
            self._journal.info(
                "listening", route=port.route.name, listen=str(port.address), destination=str(port.route.destination)
            )
        self._journal.info("serving metrics", listen=str(self.listening.metrics))
        for remark in remarks(self.snapshot):
            self._journal.warning(remark)

    def _status(self) -> str:
        return f"serving {len(self.ports)} route{'' if len(self.ports) == 1 else 's'}"

    # Drain.

    def drain(self) -> None:
        """Stop taking connections and end when the last session has; asked again, end the patience of the first."""
        if self._drain_asked:
            self._patience.cancel()
        self._drain_asked = True
        if self._takeover.successor is not None:
            self._journal.info(f"draining: up to {self._begin_patience():g} s for what is not past its commit point")
        self._ending.set()

    def _begin_patience(self) -> float:
        limit = self.snapshot.config.limits.drain_time_s
        self._patience.deadline = trio.current_time() + limit
        return limit

    async def _drain(self) -> None:
        limit = self._begin_patience()
        self.metrics.set_draining(draining=True)
        status = f"draining: {len(self.sessions)} sessions, up to {limit:g} s for those before their commit point"
        self._notifier.stopping(status)
        self._journal.info(status)
        self.ports.close()
        self.temporary.close()
        await self._end_sessions()
        self._journal.info("drained")

    async def _end_sessions(self) -> None:
        """Wait for the sessions: as long as the patience lasts, and for those that are committed without a limit."""
        limit = self.snapshot.config.limits.drain_time_s
        with self._patience:
            await self.sessions.wait_none()
        reason = f"the daemon stops, and its patience (limits.drain_time_s, {limit:g} s) is over; the source resumes"
        cut = self.sessions.abandon(Ending(Outcome.DRAINED, reason))
        if len(self.sessions):
            committed = len(self.sessions) - cut
            self._journal.warning(f"drain: {cut} sessions reset, {committed} past the commit point are waited for")
        await self.sessions.wait_none()

    # Upgrade.

    async def upgrade(self) -> int:
        """Let a new process take this one's place, and finish what is carried here. Returns its process id.

        :raises UpgradeFailed: nothing has changed.
        """
        async with self._changing:
            try:
                pid = await self._upgrade()
            except UpgradeFailed as error:
                self._journal.error(f"upgrade failed, nothing changed: {error}")
                self._notifier.status(f"{self._status()}; the last upgrade failed: {error}")
                raise
            self._journal.info("upgraded", process=pid, sessions=len(self.sessions))
            return pid

    async def _upgrade(self) -> int:
        """Raises UpgradeFailed."""
        pid = await self._takeover.start(self.snapshot.config.limits.upgrade_time_s, self._check_upgradable)
        # From here on nothing is waited for, and nothing can go wrong.
        self._notifier.hand_over(pid)
        if self._control is not None:
            self._control.release()
        self._ending.set()
        return pid

    def _check_upgradable(self) -> None:
        try:
            self._check_not_draining()
        except CannotListen as error:
            raise UpgradeFailed(str(error)) from error

    async def _finish(self, pid: int) -> None:
        """Another process serves: carry what there is to its end."""
        await self._takeover.finish_accepting(lambda: self._drain_asked)
        self._journal.info("another process accepts", process=pid, sessions=len(self.sessions))
        await self.ports.close_metrics()
        await self._end_sessions()
        if self._control is not None:
            with trio.move_on_after(CLIENT_TIME_S):
                await self._control.ended.wait()
        self._journal.info("the last session of before the upgrade has ended")
