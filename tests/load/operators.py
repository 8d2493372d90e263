"""Scenarios of everything that is not a migration: control socket, metrics port, the log's reader, the resolver."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from tests.load.connections import SOME_MIGRATIONS, a_daemon
from tests.load.crowd import Crowd, standing
from tests.load.daemon import ask, running
from tests.load.peers import a_destination
from tests.load.scenario import MIB, Result, Scale
from tests.load.streams import memory
from tests.load.watch import watching

# Threads: the event loop's, the log's, the metrics port's 17, the names' 16, and some that read files.
THREADS = 40

# A pipe of the smallest size: the log's reader stands still at once.
PIPE_BYTES = 4096


async def _asked(result: Result, scale: Scale, crowd: Crowd, *, metrics: bool) -> Result:
    async with a_destination() as destination:
        with a_daemon(destination) as daemon:
            target = daemon.metrics if metrics else daemon.control
            with watching(daemon) as watcher:
                with standing(Crowd(target, crowd.size, 1, crowd.again, crowd.says, crowd.pause_s)) as crowded:
                    await result.migrations(daemon, destination, scale.goods)
                    await trio.sleep(2)
                result.crowd(crowded)
            result.seen(watcher, memory=SOME_MIGRATIONS + 8 * MIB, why="a few clients at a time")
            assert watcher.seen is not None
            result.bound(
                "threads",
                watcher.seen.threads_peak,
                THREADS,
                "TasksMax= of the packaged unit is 256, for all processes of an upgrade",
            )
            result.turned(await trio.to_thread.run_sync(daemon.stop))
    return result


async def control(scale: Scale) -> Result:
    """Silent clients of the control socket, and some that begin a request and do not end it."""
    size = scale.crowd // 20
    result = Result("control socket", f"{size} clients that begin a request, and come again")
    return await _asked(result, scale, Crowd("", size, again=200, says=b'{"version": 1', pause_s=0.5), metrics=False)


async def metrics(scale: Scale) -> Result:
    """The same at the metrics port."""
    size = scale.crowd // 20
    result = Result("metrics port", f"{size} clients that begin a request, and come again")
    return await _asked(result, scale, Crowd(0, size, again=200, says=b"GET /metrics HT", pause_s=0.5), metrics=True)


async def huge_requests(scale: Scale) -> Result:
    """Requests that do not end, at both."""
    result = Result("huge requests", f"{2 * scale.endless} clients whose request does not end, at both ports")
    async with a_destination() as destination:
        with a_daemon(destination) as daemon:
            with watching(daemon) as watcher:
                async with trio.open_nursery() as nursery:
                    for _ in range(scale.endless):
                        nursery.start_soon(_ask_for_ever, daemon.control)
                        nursery.start_soon(_ask_for_ever, daemon.metrics)
                    await result.migrations(daemon, destination, scale.goods)
                    nursery.cancel_scope.cancel()
            result.seen(watcher, memory=SOME_MIGRATIONS + 8 * MIB, why="64 KiB of each")
            result.turned(await trio.to_thread.run_sync(daemon.stop))
    return result


async def _ask_for_ever(target: int | str) -> None:
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            is_path = isinstance(target, str)
            opening = trio.open_unix_socket(target) if is_path else trio.open_tcp_stream("127.0.0.1", target)
            async with await opening as stream:
                while True:
                    await stream.send_all(b"x" * 65536)
        await trio.sleep(0.01)


class Reader:
    """Whoever reads standard error, and stands still until told otherwise."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.text = b""
        self._thread: threading.Thread | None = None

    def go_on(self) -> None:
        """Read everything from now on."""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while chunk := os.read(self.read_end, 1 << 16):
            self.text += chunk

    def end(self) -> None:
        """Close what is open. The thread has read to the end by then."""
        if self._thread is not None:
            self._thread.join(10)
        for end in (self.read_end, self.write_end):
            with suppress(OSError):
                os.close(end)


@contextmanager
def a_reader() -> Iterator[Reader]:
    reader = Reader()
    try:
        yield reader
    finally:
        reader.end()


async def stuck_log(scale: Scale) -> Result:
    """Whoever reads standard error stands still, and then goes on."""
    result = Result("stuck log", f"{scale.migrations} migrations, debug log, and nobody reads it")
    async with a_destination() as destination:
        with a_reader() as reader, TemporaryDirectory() as name:
            routes = {"lab": f"127.0.0.1:{destination.port}"}
            with running(Path(name), routes, log='level = "debug"', stderr=reader.write_end) as daemon:
                os.close(reader.write_end)
                with watching(daemon) as watcher:
                    while not daemon.metric("proxyd_log_lines_lost_total"):
                        await result.migrations(daemon, destination, scale.migrations, at_once=20)
                result.seen(watcher, memory=SOME_MIGRATIONS + 84 * MIB, why="4 MiB of lines, and 20 at a time")
                result.figures["lost_lines"] = daemon.metric("proxyd_log_lines_lost_total")
                reader.go_on()
                with trio.move_on_after(10):
                    while b"lost here" not in reader.text:
                        await trio.sleep(0.05)
                result.expect(b"lost here" in reader.text, "a line tells of those that were lost")
                result.turned(await trio.to_thread.run_sync(daemon.stop))
                result.expect(b"drained" in reader.text or b"drain" in reader.text, "and the log goes on")
    return result


async def dead_log(scale: Scale) -> Result:
    """Whoever reads standard error is gone: EPIPE."""
    result = Result("dead log", f"{scale.goods} migrations, and standard error is a broken pipe")
    async with a_destination() as destination:
        with a_reader() as reader, TemporaryDirectory() as name:
            routes = {"lab": f"127.0.0.1:{destination.port}"}
            with running(Path(name), routes, stderr=reader.write_end) as daemon:
                os.close(reader.write_end)
                os.close(reader.read_end)
                with watching(daemon) as watcher:
                    await result.migrations(daemon, destination, scale.goods)
                result.seen(watcher, memory=SOME_MIGRATIONS, why="nothing is kept for nobody")
                result.figures["lost_lines"] = daemon.metric("proxyd_log_lines_lost_total")
                result.expect(result.figures["lost_lines"] > 0, "the lines are counted as lost")
                result.turned(await trio.to_thread.run_sync(daemon.stop))
    return result


async def dead_resolver(scale: Scale) -> Result:
    """A destination's name whose servers do not answer, while another's do; and a reload, which needs a thread too."""
    count = 60
    result = Result("dead name server", f"{count} sources of a destination whose name does not resolve")
    async with a_destination() as destination:
        with TemporaryDirectory() as name:
            routes = {"lab": f"localhost:{destination.port}", "dead": "destination.hangs:4444"}
            with running(Path(name), routes, limits="connect_time_s = 5") as daemon:
                with watching(daemon) as watcher:
                    async with trio.open_nursery() as nursery:
                        for _ in range(count):
                            nursery.start_soon(_want, daemon.ports["dead"])
                        while daemon.metric('proxyd_active_sessions{phase="memory",route="dead"}') < count:
                            await trio.sleep(0.05)
                        await result.migrations(daemon, destination, scale.goods)
                        answer = await trio.to_thread.run_sync(ask, daemon.control, "reload")
                        result.expect("result" in answer, f"a reload is done, found {answer}")
                assert watcher.seen is not None
                result.seen(watcher, memory=SOME_MIGRATIONS + 8 * MIB, why="four threads")
                result.bound(
                    "threads",
                    watcher.seen.threads_peak,
                    THREADS,
                    "TasksMax= of the packaged unit is 256, for all processes of an upgrade",
                )
                gone = daemon.counted("destination_unreachable")
                result.expect(gone == count, f"all {count} are told in time, found {gone}")
                result.turned(await trio.to_thread.run_sync(daemon.stop))
    return result


async def _want(port: int) -> None:
    """A source whose destination is never reached."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(memory())
        with suppress(trio.BrokenResourceError):
            await stream.receive_some()
