"""Scenarios of streams that do not end, and of a destination that does not read."""

from __future__ import annotations

import trio

from tests.load.connections import SOME_MIGRATIONS, a_daemon
from tests.load.peers import a_destination, send_for_ever
from tests.load.scenario import TURN_S, Result, Scale
from tests.load.streams import ENDLESS
from tests.load.watch import watching

# One chunk of a stream in a receive buffer.
CHUNK_BYTES = 2 << 20

# One step of one source: 2 MiB of device state are kept and searched for the vmdesc.
STEP_S = 0.04

# How long senders may press against a destination that does not read before good migrations are tried.
SETTLE_S = 1.0


async def endless(scale: Scale) -> Result:
    """Prologues, sections and device state that do not end: each is cut at its limit, and others do not notice."""
    kinds = [kind for kind in ENDLESS if kind != "memory"]
    count = scale.endless * len(kinds)
    result = Result("without end", f"{scale.endless} sources each of endless {', '.join(kinds)}")
    limits = f"device_state_bytes = {scale.device_state}\nheld_bytes = {4 * scale.device_state}"
    async with a_destination() as destination:
        with a_daemon(destination, limits=limits) as daemon:
            with watching(daemon) as watcher:
                async with trio.open_nursery() as nursery:
                    for n in range(count):
                        kind = kinds[n % len(kinds)]
                        nursery.start_soon(
                            send_for_ever, daemon.ports["lab"], ENDLESS[kind](), f"127.3.{n % 5}.{n % 200 + 1}"
                        )
                    await result.migrations(daemon, destination, scale.goods)
            # What may be held altogether, grown by doubling, and what each of them has been given to receive into.
            most = SOME_MIGRATIONS + 2 * 4 * scale.device_state + count * 2 * CHUNK_BYTES
            result.seen(watcher, memory=most, why="twice limits.held_bytes, and two chunks each")

            def ended() -> int:
                return sum(daemon.counted(outcome) for outcome in ("limit", "bad_stream", "source_gone"))

            with trio.move_on_after(10):
                while ended() < count:
                    await trio.sleep(0.05)
            result.expect(ended() >= count, f"all {count} were cut off, found {ended()}")
            result.expect(daemon.counted("internal_error") == 0, "none of it is a bug of ours")
            # In one turn each of them may have sent two megabytes that are looked at.
            result.turned(await trio.to_thread.run_sync(daemon.stop), TURN_S + count * STEP_S)
    return result


async def stalled(scale: Scale) -> Result:
    """RAM without end towards a destination that does not read: it stays with its sources."""
    count = 4 * scale.endless
    result = Result("stalled destination", f"{count} sources of endless RAM, and a destination that does not read")
    async with a_destination() as destination, a_destination(reads=False) as stuck:
        with a_daemon(destination, also=f"127.0.0.1:{stuck.port}") as daemon:
            with watching(daemon) as watcher:
                async with trio.open_nursery() as nursery:
                    for n in range(count):
                        port = daemon.ports["also"]
                        nursery.start_soon(send_for_ever, port, ENDLESS["memory"](), f"127.4.0.{n % 250 + 1}")
                    await trio.sleep(SETTLE_S)
                    await result.migrations(daemon, destination, scale.goods)
                    result.expect(stuck.connected == count, f"all {count} press against it, found {stuck.connected}")
                    nursery.cancel_scope.cancel()
            result.seen(watcher, memory=SOME_MIGRATIONS + count * CHUNK_BYTES * 3 // 2, why="1.5 chunks of 2 MiB each")
            result.turned(await trio.to_thread.run_sync(daemon.stop))
    return result
