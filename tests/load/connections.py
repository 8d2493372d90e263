"""Scenarios of many connections: migrations at once, crowds that say nothing, clients that say a byte now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from proxyd.config import LimitsConfig
from tests import recorded
from tests.certificates import make_directory
from tests.load.crowd import Crowd, standing
from tests.load.daemon import Daemon, running
from tests.load.peers import Destination, a_destination, drip
from tests.load.scenario import MIB, Result, Scale
from tests.load.streams import NAMES, memory, prologue, section_header
from tests.load.watch import watching

SILENT = LimitsConfig().silent_connections

# A stranger is a socket, a task with its session, and its entries in the books; and some that are on their way out.
STRANGER_BYTES = 64 << 10

# What the daemon grows by with a hundred migrations one after another: what planning them needs once, and ended
# sessions that Python has not collected yet (10 to 50 MiB, measured).
SOME_MIGRATIONS = 64 * MIB

HELLO = bytes.fromhex("16030100c8010000c40303")  # how a TLS ClientHello begins


@contextmanager
def a_daemon(
    destination: Destination, *, also: str | None = None, descriptors: int | None = None, limits: str = ""
) -> Iterator[Daemon]:
    """One with a route to ``destination``, and one to ``also``, in a directory of its own."""
    routes = {"lab": f"127.0.0.1:{destination.port}"} | ({} if also is None else {"also": also})
    with TemporaryDirectory() as name, running(Path(name), routes, descriptors=descriptors, limits=limits) as daemon:
        yield daemon


async def at_once(scale: Scale) -> Result:
    """Many migrations at once, each of them rewritten."""
    result = Result("at once", f"{scale.migrations} migrations at the same time")
    async with a_destination() as destination:
        with a_daemon(destination) as daemon:
            with watching(daemon) as watcher:
                await result.migrations(daemon, destination, scale.migrations, at_once=scale.migrations)
            # A stream fills its receive buffer, is held in part, and rewritten in part.
            largest = max(len(recorded.load(name)) for name in NAMES)
            most = SOME_MIGRATIONS + 3 * scale.migrations * largest
            result.seen(watcher, memory=most, why="three times their streams")
            with trio.move_on_after(10):
                while daemon.counted("completed") < scale.migrations:
                    await trio.sleep(0.05)
            result.expect(daemon.counted("completed") == scale.migrations, "each counts as completed")
            result.turned(await trio.to_thread.run_sync(daemon.stop))
    return result


async def _crowded(
    result: Result,
    scale: Scale,
    crowd: Callable[[Daemon], Crowd],
    *,
    strangers: int = SILENT,
    address: str = "127.0.0.9",
    descriptors: int | None = None,
) -> Result:
    async with a_destination() as destination:
        with a_daemon(destination, descriptors=descriptors) as daemon:
            with watching(daemon) as watcher:
                with standing(crowd(daemon)) as crowded:
                    await result.migrations(daemon, destination, scale.goods, address=address)
                    result.figures["strangers"] = daemon.metric("proxyd_silent_connections")
                result.crowd(crowded)
            most = SOME_MIGRATIONS + 2 * strangers * STRANGER_BYTES
            result.seen(watcher, memory=most, why=f"{strangers} strangers, as many on their way out, some migrations")
            result.expect(result.figures["strangers"] <= strangers, "no more strangers than limits.silent_connections")
            result.turned(await trio.to_thread.run_sync(daemon.stop))
    return result


async def silent(scale: Scale) -> Result:
    """One address, thousands of connections that say nothing."""
    result = Result("silent", f"{scale.crowd} connections from one address that say nothing, and come again")
    return await _crowded(result, scale, lambda daemon: Crowd(daemon.ports["lab"], scale.crowd))


async def silent_everywhere(scale: Scale) -> Result:
    """The same from as many addresses as a /24 has."""
    result = Result("silent, 250 addresses", f"{scale.crowd} connections from 250 addresses that say nothing")
    return await _crowded(result, scale, lambda daemon: Crowd(daemon.ports["lab"], scale.crowd, sources=250))


async def silent_here(scale: Scale) -> Result:
    """The same from the address that the good migrations come from."""
    result = Result("silent, same address", f"{scale.crowd} connections from the good source's own address")
    return await _crowded(result, scale, lambda daemon: Crowd(daemon.ports["lab"], scale.crowd), address="127.1.0.1")


async def few_descriptors(scale: Scale) -> Result:
    """The same for a daemon that may have fewer file descriptors than connections."""
    result = Result("few descriptors", f"{scale.crowd} silent connections to a daemon with 256 file descriptors")
    return await _crowded(
        result, scale, lambda daemon: Crowd(daemon.ports["lab"], scale.crowd), descriptors=256, strangers=32
    )


async def loris(scale: Scale) -> Result:
    """A byte now and then, in every phase: who does that has the time that its limit gives him, and takes no place."""
    result = Result("slow loris", f"{scale.loris} clients that send a byte at a time, in each of four phases")
    pause = min(1.0, scale.header_s / 5)
    limits = f"header_time_s = {scale.header_s}\nhold_time_s = {scale.hold_s}\nhold_idle_time_s = {2 * pause}"
    phases = {
        "greeting": ("lab", b"", prologue() * 9, scale.header_s),
        "prologue": ("lab", prologue(), b"\x08\x00\x02\x00\x04\x00\x00\x00\x01" * 99, scale.header_s),
        "TLS handshake": ("tls", b"", HELLO + bytes(200), scale.header_s),
        "device state": ("lab", memory() + section_header(100), bytes(1000), scale.hold_s),
    }
    async with a_destination() as destination:
        with TemporaryDirectory() as name:
            pki = make_directory(Path(name) / "pki")
            routes = dict.fromkeys(("lab", "tls"), f"127.0.0.1:{destination.port}")
            tls = f'[route.tls]\nsource = "{pki}"\n'
            with running(Path(name), routes, limits=limits, tls=tls) as daemon:
                with watching(daemon) as watcher:
                    async with trio.open_nursery() as nursery:
                        for phase, (route, first, then, limit) in phases.items():
                            nursery.start_soon(
                                _dripped, result, scale, phase, daemon.ports[route], first, then, pause, limit
                            )
                        await result.migrations(daemon, destination, scale.goods)
                most = SOME_MIGRATIONS + 4 * scale.loris * 4 * STRANGER_BYTES
                result.seen(watcher, memory=most, why="256 KiB for each of them, TLS and a receive buffer included")
                result.expect(daemon.counted("internal_error") == 0, "none of it is a bug of ours")
                result.turned(await trio.to_thread.run_sync(daemon.stop))
    return result


async def _dripped(
    result: Result, scale: Scale, phase: str, port: int, first: bytes, then: bytes, pause_s: float, limit_s: float
) -> None:
    times: list[float] = []

    async def one(n: int) -> None:
        times.append(await drip(port, first, then, pause_s, f"127.2.0.{n % 250 + 1}"))

    async with trio.open_nursery() as nursery:
        for n in range(scale.loris):
            nursery.start_soon(one, n)
    result.bound(f"{phase}_s", max(times), limit_s + 5, "its limit, and a busy machine's bad moment")
    result.expect(min(times) > limit_s / 2, f"{phase}: not before its limit, found {min(times):.2f} s")
