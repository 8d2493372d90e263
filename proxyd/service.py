"""The daemon as a process: command line in, exit code out, and signals in between.

SIGHUP reloads, SIGTERM and SIGINT drain, SIGUSR2 upgrades. What each means is :mod:`proxyd.daemon`'s business.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from proxyd import config_file as configuration
from proxyd import journal as logs
from proxyd.config import ConfigError, LogConfig
from proxyd.daemon import Daemon
from proxyd.descriptor_store import ServiceManagerStore
from proxyd.journal import Journal
from proxyd.line_writer import LineWriter
from proxyd.metrics import Metrics
from proxyd.ports import CannotListen, Listening
from proxyd.predecessor import Predecessor
from proxyd.relay.adoption import adopt
from proxyd.relay.keeping import NAME_PREFIX
from proxyd.relay.listener import Sessions
from proxyd.relay.listening import InheritedSockets
from proxyd.service_notify import ServiceNotifier
from proxyd.snapshot import Snapshot
from proxyd.successor import UpgradeFailed, command_line
from proxyd.upgrade import CannotTakeOver
from proxyd.upgrade_link import LinkBroken

# linux/prctl.h
_PR_SET_DUMPABLE: Final = 4

EXIT_DONE: Final = 0
EXIT_BAD_INPUT: Final = 1
EXIT_REFUSED: Final = 3
EXIT_UNREACHABLE: Final = 4
EXIT_BUG: Final = 70

# The file descriptor, whatever sys.stderr is.
STANDARD_ERROR: Final = 2


def serve(config_path: Path, *, on_ready: Callable[[Listening], object] | None = None) -> int:
    """Run the daemon until a drain is over; ``proxyd serve``. Writes log lines to standard error.

    :param config_path: the configuration file; SIGHUP reads it again.
    :param on_ready: called once, with the addresses, when every port listens.
    :returns: the process's exit code: 0 after a drain, 1 the configuration is bad, 3 the process whose place this one
        was to take stays, 4 the file cannot be read or a port cannot be bound, 70 a bug of ours.

    Signals are handled only in the main thread, because Python allows it nowhere else.
    """
    inherited = InheritedSockets.from_environment(os.environ, os.getpid())
    predecessor = Predecessor.from_environment(os.environ)
    if predecessor is not None:
        predecessor.detach()  # it forks, so before there is a thread
    with LineWriter(STANDARD_ERROR) as lines:
        return _run(config_path, on_ready, lines, inherited, predecessor)


def _run(
    config_path: Path,
    on_ready: Callable[[Listening], object] | None,
    lines: LineWriter,
    inherited: InheritedSockets,
    predecessor: Predecessor | None,
) -> int:
    _hide_memory(lines)
    try:
        snapshot = Snapshot.build(configuration.load(config_path))
    except OSError as error:
        reason = f"{config_path}: cannot read the configuration: {error.strerror}"
        return _give_up(inherited, predecessor, lines, EXIT_UNREACHABLE, reason)
    except ConfigError as error:
        return _give_up(inherited, predecessor, lines, EXIT_BAD_INPUT, str(error))
    logs.configure(snapshot.config.log, lines)
    try:
        trio.run(_serve, snapshot, on_ready, inherited, predecessor, lines)
    except CannotListen as error:
        lines.put(f"proxyd: {error}\n")
        return EXIT_UNREACHABLE
    except (CannotTakeOver, LinkBroken) as error:
        lines.put(f"proxyd: {error}\n")
        return EXIT_REFUSED
    except Exception as error:  # noqa: BLE001 - a bug of ours gets its own exit code and a whole traceback
        Journal().error("a bug of proxyd's; please report it with these lines", exc_info=error)
        return EXIT_BUG
    return EXIT_DONE


def _hide_memory(lines: LineWriter) -> None:
    """Buffers hold guests' memory: no core dumps, and no other process of the same user may look (prctl(2))."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (OSError, MemoryError, AttributeError) as error:
        lines.put(f"proxyd: cannot hide its memory from other processes of its user: {error}\n")


def _give_up(
    inherited: InheritedSockets, predecessor: Predecessor | None, lines: LineWriter, code: int, reason: str
) -> int:
    """There is nothing to serve; but what another process has left must not be lost for that."""
    lines.put(f"proxyd: {reason}\n")
    if predecessor is not None:
        predecessor.refuse(reason)
    kept = inherited.take(NAME_PREFIX)
    if kept:
        logs.configure(LogConfig(), lines)
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
    snapshot: Snapshot,
    on_ready: Callable[[Listening], object] | None,
    inherited: InheritedSockets,
    predecessor: Predecessor | None,
    lines: LineWriter,
) -> None:
    inheritance = None if predecessor is None else await predecessor.inherit()
    daemon = Daemon(
        snapshot,
        ServiceNotifier.from_environment(os.environ),
        inherited=inherited if inheritance is None else inheritance.inherited,
        store=ServiceManagerStore.from_environment(os.environ),
        command=command_line(),
        predecessor=None if predecessor is None or inheritance is None else (predecessor, inheritance),
        lines=lines,
    )
    lines.tell_lost = daemon.metrics.count_lost_lines
    failure: CannotListen | CannotTakeOver | None = None
    async with trio.open_nursery() as nursery:
        # First of all, and whatever becomes of the rest: somebody waits for the end of these.
        daemon.adopt(nursery)
        try:
            await daemon.open()
            if threading.current_thread() is threading.main_thread():
                await nursery.start(_obey_signals, daemon)
            await daemon.run(on_ready)
        except (CannotListen, CannotTakeOver) as error:
            failure = error
            if predecessor is not None:
                predecessor.refuse(str(error))
            await daemon.sessions.wait_none()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _obey_signals(daemon: Daemon, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2) as signals:
        task_status.started()
        async with trio.open_nursery() as nursery:
            async for number in signals:
                if number == signal.SIGHUP:
                    await daemon.reload()
                elif number == signal.SIGUSR2:
                    # Beside it, a drain must be possible.
                    nursery.start_soon(_upgrade, daemon)
                else:
                    daemon.drain()


async def _upgrade(daemon: Daemon) -> None:
    with suppress(UpgradeFailed):  # it is in the log
        await daemon.upgrade()
