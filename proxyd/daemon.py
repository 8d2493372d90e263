"""The daemon: the one place where everything meets.

Start, reload (SIGHUP), drain (SIGTERM or SIGINT), and nothing about bytes or registers.

*Start*: configuration, files and ports first; the service manager hears READY when the last port listens.

*Reload*: a new snapshot is built and its new ports are bound before anything changes. If any of that fails, nothing
changes at all. Running sessions keep the route that they began with, even if it is gone.

*Drain*: the ports close, so new sources get RST and keep their guests. Migrations before their commit point may go on
for ``limits.drain_time_s`` and are then reset, which makes their sources resume. Migrations past it are waited for
without limit. A second SIGTERM ends the waiting for the first kind, never for the second.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from proxyd import config_file as configuration
from proxyd import journal as logs
from proxyd.config import ConfigError, LogConfig
from proxyd.control.protocol import ControlError, ErrorKind
from proxyd.control.server import ControlServer
from proxyd.descriptor_store import ServiceManagerStore
from proxyd.endpoint import ListenEndpoint
from proxyd.journal import Journal
from proxyd.metrics import Metrics
from proxyd.operations import commands
from proxyd.ports import CannotListen, Listening, Ports
from proxyd.relay.adoption import adopt
from proxyd.relay.intake import RewriterFactory, rewriter_for
from proxyd.relay.keeping import NAME_PREFIX
from proxyd.relay.listener import Sessions
from proxyd.relay.listening import InheritedSockets
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.session import Surroundings
from proxyd.rewrite.rewriter import Phase
from proxyd.service_notify import ServiceNotifier
from proxyd.snapshot import Snapshot, remarks
from proxyd.temporary_routes import TemporaryRoutes

EXIT_DONE: Final = 0
EXIT_BAD_INPUT: Final = 1
EXIT_UNREACHABLE: Final = 4
EXIT_BUG: Final = 70


def serve(config_path: Path, *, on_ready: Callable[[Listening], object] | None = None) -> int:
    """Run the daemon until a drain is over; ``proxyd serve``. Writes log lines to standard error.

    :param config_path: the configuration file; SIGHUP reads it again.
    :param on_ready: called once, with the addresses, when every port listens.
    :returns: the process's exit code: 0 after a drain, 1 the configuration is bad, 4 the file cannot be read or a
        port cannot be bound, 70 a bug of ours.

    Signals are handled only in the main thread, because Python allows it nowhere else.
    """
    inherited = InheritedSockets.from_environment(os.environ, os.getpid())
    try:
        snapshot = _read(config_path)
    except OSError as error:
        return _give_up(inherited, EXIT_UNREACHABLE, f"{config_path}: cannot read the configuration: {error.strerror}")
    except ConfigError as error:
        return _give_up(inherited, EXIT_BAD_INPUT, str(error))
    logs.configure(snapshot.config.log)
    try:
        trio.run(_serve, snapshot, on_ready, inherited)
    except CannotListen as error:
        sys.stderr.write(f"proxyd: {error}\n")
        return EXIT_UNREACHABLE
    except Exception as error:  # noqa: BLE001 - a bug of ours gets its own exit code and a whole traceback
        Journal().error("a bug of proxyd's; please report it with these lines", exc_info=error)
        return EXIT_BUG
    return EXIT_DONE


def _give_up(inherited: InheritedSockets, code: int, reason: str) -> int:
    """There is nothing to serve; but what another process has left must not be lost for that."""
    sys.stderr.write(f"proxyd: {reason}\n")
    kept = inherited.take(NAME_PREFIX)
    if kept:
        logs.configure(LogConfig())
        trio.run(_finish, kept, reason)
    return code


async def _finish(kept: dict[str, tuple[int, ...]], reason: str) -> None:
    async with trio.open_nursery() as nursery:
        store = ServiceManagerStore.from_environment(os.environ)
        if store is not None:
            nursery.start_soon(store.run)
        sessions = Sessions(len(kept))
        migrations = adopt(kept, store, Metrics(), Journal())
        ServiceNotifier.from_environment(os.environ).ready(f"ends {len(migrations)} migrations, and then: {reason}")
        async with trio.open_nursery() as carrying:
            for migration in migrations:
                carrying.start_soon(sessions.run, migration)
        nursery.cancel_scope.cancel()


async def _serve(
    snapshot: Snapshot, on_ready: Callable[[Listening], object] | None, inherited: InheritedSockets
) -> None:
    daemon = Daemon(
        snapshot,
        ServiceNotifier.from_environment(os.environ),
        inherited=inherited,
        store=ServiceManagerStore.from_environment(os.environ),
    )
    failure = None
    async with trio.open_nursery() as nursery:
        # First of all, and whatever becomes of the rest: somebody waits for the end of these.
        daemon.adopt(nursery)
        try:
            await daemon.open()
            if threading.current_thread() is threading.main_thread():
                await nursery.start(_obey_signals, daemon)
            await daemon.run(on_ready)
        except CannotListen as error:
            failure = error
            await daemon.sessions.wait_none()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _obey_signals(daemon: Daemon, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGHUP, signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                await daemon.reload()
            else:
                daemon.drain()


def _read(path: Path) -> Snapshot:
    """Raises OSError and ConfigError."""
    return Snapshot.build(configuration.load(path))


class Daemon:
    """A running proxyd: :meth:`open`, then :meth:`run`; :meth:`reload` and :meth:`drain` from any task meanwhile."""

    def __init__(
        self,
        snapshot: Snapshot,
        notifier: ServiceNotifier,
        journal: Journal | None = None,
        make_rewriter: RewriterFactory = rewriter_for,
        inherited: InheritedSockets | None = None,
        store: ServiceManagerStore | None = None,
    ) -> None:
        self._inherited = inherited or InheritedSockets({})
        self._store = store
        self.snapshot = snapshot
        self.metrics = Metrics()
        self.sessions = Sessions(snapshot.config.limits.connections)
        self._notifier = notifier
        self._journal = journal or Journal()
        self._around = Surroundings(self.metrics, self._journal, make_rewriter, store=store)
        self.ports = Ports(self.sessions, self._around, self._inherited)
        self.temporary = TemporaryRoutes(self.sessions, self._around, self._inherited)
        self.started = time.monotonic()
        self.last_reload_error: str | None = None
        self._control: ControlServer | None = None
        self._nursery: trio.Nursery | None = None
        self._drain_asked = trio.Event()
        self._reloading = trio.Lock()
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
        return self._drain_asked.is_set()

    async def add_route(self, table: dict[str, Any], *, once: bool, expires_s: float | None) -> ListenEndpoint:
        """Open a temporary route. Raises :class:`~proxyd.control.protocol.ControlError`."""
        if self._nursery is None or self.draining:
            raise ControlError(ErrorKind.REFUSED, "the daemon is draining")
        return await self.temporary.add(self.snapshot.config, table, self._nursery, once=once, expires_s=expires_s)

    async def run(self, on_ready: Callable[[Listening], object] | None = None) -> None:
        """Serve until a drain is over.

        Resource handling: closes everything that :meth:`open` opened. If it is cancelled, sessions that are not
        committed are reset; those that are go on, and it returns when they have ended.

        Error handling: a session's errors stay in the session. What else goes wrong is a bug and is raised.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.ports.serve(nursery)
                if self._notifier.watchdog_s is not None:
                    nursery.start_soon(self._feed_watchdog, self._notifier.watchdog_s)
                if self._control is not None:
                    nursery.start_soon(self._control.serve, name="control socket")
                self._in_force()
                self._notifier.ready(self._status())
                if on_ready is not None:
                    on_ready(self.listening)
                await self._drain_asked.wait()
                await self._drain()
                nursery.cancel_scope.cancel()
        finally:
            self.temporary.close()
            if self._control is not None:
                self._control.close()
            await self.ports.close_metrics()

    # Reload.

    async def reload(self) -> bool:
        """Read the configuration again, and put it in force whole or not at all. Says whether it is in force.

        One at a time: a signal and an operator at the control socket may ask at once, and what was read first must
        not come into force last.
        """
        async with self._reloading:
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
        replaced = await self.ports.replace(snapshot, self._nursery, self._check_not_draining)
        if snapshot.config.control != self.snapshot.config.control:
            self._journal.warning("control.socket is another one after a restart, not after a reload")
        self.snapshot = snapshot
        self.sessions.limit = snapshot.config.limits.connections
        logs.configure(snapshot.config.log)
        if replaced is not None:
            await trio.to_thread.run_sync(replaced.close)

    def _check_not_draining(self) -> None:
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
        count = len(self.ports)
        return f"serving {count} route{'s' if count != 1 else ''}"

    # Drain.

    def drain(self) -> None:
        """Stop taking connections and end when the last session has; asked again, end the patience of the first."""
        if self._drain_asked.is_set():
            self._patience.cancel()
        self._drain_asked.set()

    async def _drain(self) -> None:
        limit = self.snapshot.config.limits.drain_time_s
        self.metrics.set_draining(draining=True)
        status = f"draining: {len(self.sessions)} sessions, up to {limit:g} s for those before their commit point"
        self._notifier.stopping(status)
        self._journal.info(status)
        self.ports.close()
        self.temporary.close()
        self._patience.deadline = trio.current_time() + limit
        with self._patience:
            await self.sessions.wait_none()
        reason = f"the daemon stops, and its patience (limits.drain_time_s, {limit:g} s) is over; the source resumes"
        cut = self.sessions.abandon(Ending(Outcome.DRAINED, reason))
        if len(self.sessions):
            committed = len(self.sessions) - cut
            self._journal.warning(f"drain: {cut} sessions reset, {committed} past the commit point are waited for")
        await self.sessions.wait_none()
        self._journal.info("drained")

    async def _feed_watchdog(self, seconds: float) -> None:
        while True:
            self._notifier.alive()
            # Half the time, as sd_watchdog_enabled(3) recommends.
            await trio.sleep(seconds / 2)
