"""The main job with real QEMUs: a move that the destination refuses works with proxyd between."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.qemu.counting import findings
from tests.qemu.daemon import proxyd
from tests.qemu.machine import Machine, machine
from tests.qemu.pairs import PAIRS, Pair

pytestmark = pytest.mark.qemu

each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)


@asynccontextmanager
async def both(pair: Pair, guest: Path) -> AsyncIterator[tuple[Machine, Machine]]:
    """Run the pair: the source counting, the destination waiting."""
    async with (
        machine("source", pair.source, guest, cpu=pair.source_cpu, machine_type=pair.machine) as source,
        machine(
            "destination",
            pair.destination,
            guest,
            cpu=pair.destination_cpu,
            machine_type=pair.machine,
            destination=True,
        ) as destination,
    ):
        await source.ticks(5)
        yield source, destination


@each_pair
async def test_without_proxyd_destination_refuses_and_source_goes_on(pair: Pair, guest: Path) -> None:
    async with both(pair, guest) as (source, destination):
        assert await source.migrate(await destination.incoming()) == "failed"
        assert await destination.exited() == 1
        assert re.search(pair.direct_error, destination.stderr.decode()), destination.account()
        await source.ticks(5)
        assert set(findings(source.serial, destination.serial)) == {"ok"}


@each_pair
async def test_with_proxyd_guest_goes_on_at_the_destination(pair: Pair, guest: Path, tmp_path: Path) -> None:
    async with both(pair, guest) as (source, destination):
        async with proxyd(tmp_path, await destination.incoming(), profile=str(pair.profile_path)) as daemon:
            assert await source.migrate(daemon.port) == "completed", source.account() + daemon.stderr.decode()
            before = findings(source.serial)
            await destination.ticks(5)
            assert await destination.running()
            assert not await source.running()
        assert set(before) == {"ok"}
        # A line that the move cut in two tells what the guest saw before it.
        cut = 0 if source.serial.endswith(b"\n") else 1
        after = findings(source.serial, destination.serial)[len(before) + cut :]
        seen = {f"id:{name}" for name in pair.identity} or {"ok"}
        assert after
        assert all(set(said.split()) == seen for said in after), after
