"""The demo's plot: the same migration twice, first directly, then through the daemon."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import trio

from proxyd import config_file
from proxyd.daemon import Daemon
from proxyd.demo import destination, source
from proxyd.demo.recording import HOST, Recording, data, destination_host, recording
from proxyd.demo.register_file import Host
from proxyd.endpoint import Address
from proxyd.journal import Journal
from proxyd.ports import Listening
from proxyd.relay.intake import Rewriter, rewriter_for
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.report import RewriteReport
from proxyd.routes import Route
from proxyd.service_notify import ServiceNotifier
from proxyd.snapshot import Snapshot

# Everything happens on loopback within a fraction of a second. What takes this long will not end by itself.
LONGEST_S: Final = 30.0

ROUTE: Final = """\
[metrics]
listen = "127.0.0.1:0"

[[route]]
name = "demo"
listen = "127.0.0.1:0"
destination = "127.0.0.1:{port}"
{towards}
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one migration ended at its two ends."""

    source: source.Result
    destination: destination.Result


@dataclass(frozen=True, slots=True)
class Story:
    """All that there is to tell. ``report`` is the daemon's, of the second attempt."""

    recording: Recording
    destination_host: HostDescription
    direct: Attempt
    proxied: Attempt
    report: RewriteReport | None
    seconds: float


async def play() -> Story:
    """Migrate the recorded guest to the other kernel, without and with proxyd."""
    began = trio.current_time()
    with trio.fail_after(LONGEST_S):
        recorded = recording()
        described = destination_host()
        host = Host(described.registers, described.writable_masks or {})
        machine = destination.Machine.of(recorded.stream)
        rewriters: list[Rewriter] = []

        direct = await _attempt(recorded.stream, destination.Destination(machine, host), None, rewriters)
        proxied = await _attempt(recorded.stream, destination.Destination(machine, host), HOST, rewriters)
    (rewriter,) = rewriters
    seconds = trio.current_time() - began
    return Story(recorded, described, direct, proxied, rewriter.report, seconds)


async def _attempt(
    stream: bytes, waiting: destination.Destination, through: str | None, rewriters: list[Rewriter]
) -> Attempt:
    """One migration to ``waiting``; ``through`` a proxyd that knows this host description, or directly."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    results: list[destination.Result] = []

    async def accept() -> None:
        results.append(await waiting.load(await listener.accept()))

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        port: int = listener.socket.getsockname()[1]
        if through is None:
            ending = await source.migrate(stream, port)
        else:
            with resources.as_file(data(through)) as path:
                towards = f'destination_host = "{path.name}"'
                async with running_daemon(port, towards, path.parent, rewriters) as address:
                    ending = await source.migrate(stream, address.port)
    return Attempt(ending, results[0])


@asynccontextmanager
async def running_daemon(
    port: int, towards: str, directory: Path, rewriters: list[Rewriter] | None = None
) -> AsyncIterator[Address]:
    """The daemon itself on loopback, with one route to ``port``; gives the address it listens on.

    ``towards`` are the route's lines that say what the destination is; files in it are in ``directory``. What it
    rewrites with goes to ``rewriters``.
    """
    parsed = config_file.parse(ROUTE.format(port=port, towards=towards).encode(), directory / "demo.toml")
    snapshot = await trio.to_thread.run_sync(Snapshot.build, parsed)
    daemon = Daemon(snapshot, ServiceNotifier(None), Journal(_silent_logger()), _remembering(rewriters))
    await daemon.open()
    async with trio.open_nursery() as nursery:
        listening = await nursery.start(_run, daemon)
        yield listening.routes["demo"]
        daemon.drain()


async def _run(daemon: Daemon, task_status: trio.TaskStatus[Listening]) -> None:
    await daemon.run(task_status.started)


def _remembering(rewriters: list[Rewriter] | None) -> Callable[[Route], Rewriter]:
    def make(route: Route) -> Rewriter:
        rewriter = rewriter_for(route)
        if rewriters is not None:
            rewriters.append(rewriter)
        return rewriter

    return make


def _silent_logger() -> logging.Logger:
    """The demo tells the story itself."""
    logger = logging.getLogger("proxyd.demo")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger
