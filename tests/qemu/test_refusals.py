"""What is not moved must not be lost: every way to fail leaves the source's guest running, where there is one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.qemu.counting import findings
from tests.qemu.daemon import Daemon, free_port, proxyd
from tests.qemu.machine import Machine, machine
from tests.qemu.pairs import PROFILES
from tests.qemu.versions import QEMU_10_0

pytestmark = pytest.mark.qemu

PROFILE = {"profile": str(PROFILES / "without-pmu.toml")}


@asynccontextmanager
async def source_machine(guest: Path) -> AsyncIterator[Machine]:
    async with machine("source", QEMU_10_0, guest, cpu="neoverse-n1") as source:
        await source.ticks(5)
        yield source


@asynccontextmanager
async def destination_machine(guest: Path) -> AsyncIterator[tuple[Machine, int]]:
    """A destination that reports the course of its migration, and the port where it listens."""
    async with machine("destination", QEMU_10_0, guest, cpu="neoverse-n1,pmu=off", destination=True) as destination:
        events = {"capability": "events", "state": True}
        await destination.qmp.execute("migrate-set-capabilities", capabilities=[events])
        yield destination, await destination.incoming()


@asynccontextmanager
async def setting(guest: Path, directory: Path, **route: str) -> AsyncIterator[tuple[Machine, Machine, Daemon]]:
    """A counting source, a waiting destination that takes less, and a proxyd between."""
    async with (
        source_machine(guest) as source,
        destination_machine(guest) as (destination, port),
        proxyd(directory, port, **route) as daemon,
    ):
        yield source, destination, daemon


async def assert_goes_on(source: Machine) -> None:
    """The guest runs on the source and lost nothing."""
    await source.ticks(5)
    assert await source.running()
    assert set(findings(source.serial)) == {"ok"}


async def assert_never_dialled(destination: Machine) -> None:
    """The destination still waits for its first connection."""
    assert destination.process.poll() is None, destination.account()
    assert "active" not in destination.qmp.statuses()
    assert (await destination.qmp.execute("query-status"))["status"] == "inmigrate"


async def refusal(daemon: Daemon) -> str:
    """Return what the log says of the session that was not moved, all of it in one text."""
    line = await daemon.logged(lambda line: "outcome" in line)
    return " ".join(str(value) for value in line.values())


async def test_stream_without_return_path_is_refused_and_destination_never_dialled(guest: Path, tmp_path: Path) -> None:
    async with setting(guest, tmp_path, **PROFILE) as (source, destination, daemon):
        await source.start_migration(daemon.port, return_path=False, slowly=True)
        assert await source.migration_end() == "failed"
        assert "return-path" in await refusal(daemon)
        await assert_goes_on(source)
        await assert_never_dialled(destination)


async def test_destination_that_is_down(guest: Path, tmp_path: Path) -> None:
    async with source_machine(guest) as source, proxyd(tmp_path, free_port(), **PROFILE) as daemon:
        assert await source.migrate(daemon.port) == "failed"
        assert "refused" in await refusal(daemon)
        await assert_goes_on(source)


async def test_destination_that_dies_in_mid_load(guest: Path, tmp_path: Path) -> None:
    async with setting(guest, tmp_path, **PROFILE) as (source, destination, daemon):
        await source.start_migration(daemon.port, slowly=True)
        await destination.wait_until(lambda: "active" in destination.qmp.statuses(), "begin of the load")
        destination.process.kill()
        assert await source.migration_end() == "failed"
        await refusal(daemon)
        await assert_goes_on(source)


async def test_profile_that_refuses(guest: Path, tmp_path: Path) -> None:
    async with setting(guest, tmp_path, profile=str(PROFILES / "refuse.toml")) as (source, destination, daemon):
        assert await source.migrate(daemon.port) == "failed"
        assert "MIDR_EL1" in await refusal(daemon)
        await assert_goes_on(source)
        assert await destination.exited() == 1


async def test_source_killed_in_mid_stream(guest: Path, tmp_path: Path) -> None:
    async with destination_machine(guest) as (destination, port), proxyd(tmp_path, port, **PROFILE) as daemon:
        async with source_machine(guest) as source:
            await source.start_migration(daemon.port, slowly=True)
            await destination.wait_until(lambda: "active" in destination.qmp.statuses(), "begin of the load")
            source.process.kill()
        await refusal(daemon)
        assert await destination.exited() == 1
        assert daemon.process.poll() is None, daemon.stderr.decode()


async def test_proxyd_killed_in_mid_stream(guest: Path, tmp_path: Path) -> None:
    async with setting(guest, tmp_path, **PROFILE) as (source, destination, daemon):
        await source.start_migration(daemon.port, slowly=True)
        await destination.wait_until(lambda: "active" in destination.qmp.statuses(), "begin of the load")
        daemon.process.kill()
        assert await source.migration_end() == "failed"
        await assert_goes_on(source)
        assert await destination.exited() == 1
