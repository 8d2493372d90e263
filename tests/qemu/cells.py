"""One cell of the matrix at a time: a pair of QEMUs, a mode, and what becomes of the guest that watches its RAM.

Each function is one experiment; it returns when everything is as it should be and raises AssertionError otherwise.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import certificates
from tests.qemu import counting
from tests.qemu.daemon import Daemon, proxyd
from tests.qemu.huge_pages import huge_pages
from tests.qemu.machine import Machine, machine
from tests.qemu.modes import Mode
from tests.qemu.moving import assert_moved, assert_stayed, listening, make_bitmap, migrate, prepare
from tests.qemu.pairs import PAIRS, Pair
from tests.qemu.versions import QEMU_11_1, Version

VERSION_PAIRS = [pair for pair in PAIRS if not pair.name.endswith("-sve")]
"""One pair for each two versions between which QEMU itself migrates, with a rewrite that is needed."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cells use."""

    guest: Path
    """The ELF image of tests/guest/patterns.c."""
    certificates: Path

    @classmethod
    def make(cls, directory: Path) -> "Bench":
        """Build it all in *directory*."""
        return cls(counting.build("patterns", directory), certificates.make_directory(directory / "pki"))


@asynccontextmanager
async def machines(bench: Bench, pair: Pair, mode: Mode, directory: Path) -> AsyncIterator[tuple[Machine, Machine]]:
    """Run source and destination of *pair* as *mode* wants them; the source's guest has begun."""
    with huge_pages(mode.huge_pages):
        async with (
            machine(
                "source",
                pair.source,
                bench.guest,
                cpu=pair.source_cpu,
                machine_type=pair.machine,
                extra=mode.extra(directory, source=True),
            ) as source,
            machine(
                "destination",
                pair.destination,
                bench.guest,
                cpu=pair.destination_cpu,
                machine_type=pair.machine,
                destination=True,
                extra=mode.extra(directory, source=False),
            ) as destination,
        ):
            await source.ticks(3)
            if "dirty-bitmaps" in mode.capabilities:
                await make_bitmap(source)
            yield source, destination


async def directly(bench: Bench, version: Version, mode: Mode, directory: Path) -> None:
    """The control of the mode: QEMU moves the guest to an equal one by itself."""
    pair = Pair("", version, version, version.machine, "cortex-a57", "cortex-a57", "", "")
    async with machines(bench, pair, mode, directory) as (source, destination):
        end = await _migrate_directly(bench, source, destination, mode, directory)
        assert end == "completed", source.account() + destination.account()
        await assert_moved(source, destination, mode)


async def refused_directly(bench: Bench, pair: Pair, mode: Mode, directory: Path) -> None:
    """The control of the pair: without proxyd the destination refuses the guest's registers.

    The guest goes on at the source, unless it had been told of a switch to postcopy by a QEMU before 10.2: that one
    does not wait for the destination to have loaded the devices, so the guest is lost.
    """
    async with machines(bench, pair, mode, directory) as (source, destination):
        end = await _migrate_directly(bench, source, destination, mode, directory)
        # Not its exit: after a failed postcopy over TLS with a preempt channel, 10.0 sometimes says it all and hangs.
        await destination.wait_until(
            lambda: bool(re.search(pair.direct_error, destination.stderr.decode())), "error about the registers"
        )
        if mode.postcopy and pair.source is not QEMU_11_1:
            assert end == "postcopy-paused", source.account()
            assert not await source.running()
        else:
            assert end == "failed", source.account()
            await assert_stayed(source)


async def through_proxyd(
    bench: Bench,
    pair: Pair,
    mode: Mode,
    directory: Path,
    firewall: Mapping[str, str | bool | list[str]] | None = None,
) -> list[str]:
    """The case itself: proxyd rewrites the registers, and the guest goes on at the destination.

    Returns what proxyd said.
    """
    async with machines(bench, pair, mode, directory) as (source, destination):
        await prepare(destination, mode, mode.destination_leg, bench.certificates, server=True)
        await prepare(source, mode, mode.source_leg, bench.certificates, server=False)
        reached_at = await listening(destination, mode.destination_leg, directory / "destination.sock")
        async with route(bench, pair, mode, reached_at, directory, firewall) as (uri, daemon):
            end = await migrate(source, mode, uri)
            assert end == "completed", source.account() + destination.account() + daemon.stderr.decode()
            await assert_moved(source, destination, mode)
            line = await daemon.logged(lambda line: "outcome" in line)
            assert line["outcome"] == "completed", daemon.stderr.decode()
            return [line["message"] for line in daemon.log]


async def refused_by_proxyd(
    bench: Bench,
    pair: Pair,
    mode: Mode,
    directory: Path,
    says: str,
    *,
    dialled: bool = False,
    firewall: Mapping[str, str | bool | list[str]] | None = None,
) -> None:
    """Proxyd refuses the stream with what *says* in its reason, and the guest goes on at the source.

    The destination waits on, unless it had to be *dialled* before.
    """
    async with machines(bench, pair, mode, directory) as (source, destination):
        await prepare(source, mode, mode.source_leg, bench.certificates, server=False)
        port = await destination.incoming()
        async with proxyd(directory, port, firewall=firewall, profile=str(pair.profile_path)) as daemon:
            await source.qmp.execute("migrate", uri=f"tcp:127.0.0.1:{daemon.port}")
            assert await source.migration_end() == "failed", source.account()
            line = await daemon.logged(lambda line: "outcome" in line)
            assert line["outcome"] in {"refused", "unsupported", "bad_stream"}, line
            assert says in line["message"], line
        await assert_stayed(source)
        if dialled:
            return
        assert (await destination.qmp.execute("query-status"))["status"] == "inmigrate"
        assert not {"active", "failed"} & set(destination.qmp.statuses())


@asynccontextmanager
async def route(
    bench: Bench,
    pair: Pair,
    mode: Mode,
    destination: str,
    directory: Path,
    firewall: Mapping[str, str | bool | list[str]] | None = None,
) -> AsyncIterator[tuple[str, Daemon]]:
    """Run proxyd in front of QEMU's URI *destination*; yields the URI for the source."""
    sides = {"source": mode.source_leg, "destination": mode.destination_leg}
    tls: dict[str, str | bool | list[str]] = {name: str(bench.certificates) for name, leg in sides.items() if leg.tls}
    if mode.destination_leg.tls and mode.destination_leg.unix:
        tls["hostname"] = "localhost"
    keys = {"profile": str(pair.profile_path), "destination": destination.removeprefix("tcp:")}
    path = directory / "proxyd.sock"
    if mode.source_leg.unix:
        keys["listen"] = f"unix:{path}"
    if mode.postcopy:
        keys["postcopy"] = consent(pair)
    async with proxyd(directory, 0, tls=tls or None, firewall=firewall, **keys) as daemon:
        yield (f"unix:{path}" if mode.source_leg.unix else f"tcp:127.0.0.1:{daemon.port}"), daemon


def consent(pair: Pair) -> str:
    """Return the weakest ``postcopy`` that lets *pair* move."""
    if pair.source is not QEMU_11_1:
        return "may-lose-guest"
    return "proven" if pair.machine == QEMU_11_1.machine else "sources-10.2"


async def _migrate_directly(bench: Bench, source: Machine, destination: Machine, mode: Mode, directory: Path) -> str:
    await prepare(destination, mode, mode.direct, bench.certificates, server=True)
    await prepare(source, mode, mode.direct, bench.certificates, server=False)
    return await migrate(source, mode, await listening(destination, mode.direct, directory / "destination.sock"))
