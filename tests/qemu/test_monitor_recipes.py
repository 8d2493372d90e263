"""The recipes of docs/operations.md for QEMU's monitor, typed into two real monitors."""

from pathlib import Path

import pytest

from tests.qemu.counting import findings
from tests.qemu.daemon import free_port, proxyd
from tests.qemu.machine import Machine, machine
from tests.qemu.pairs import PAIRS
from tests.recipes import commands, recipe

pytestmark = pytest.mark.qemu

(PAIR,) = (pair for pair in PAIRS if pair.name == "10.0-pmu")

BEFORE = {"precopy": None, "multifd": "monitor multifd", "postcopy": "monitor postcopy"}
"""The recipe that comes before, on both sides."""


async def types(one: Machine, text: str) -> None:
    """Type the commands into the monitor; it is silent if all went well."""
    for line in commands(text):
        assert await one.qmp.execute("human-monitor-command", **{"command-line": line}) == "", line


@pytest.mark.parametrize("mode", BEFORE)
async def test_recipe(mode: str, guest: Path, tmp_path: Path) -> None:
    port = free_port()
    async with (
        machine("source", PAIR.source, guest, cpu=PAIR.source_cpu) as source,
        machine("destination", PAIR.destination, guest, cpu=PAIR.destination_cpu, destination=True) as destination,
        proxyd(tmp_path, port, profile=str(PAIR.profile_path), postcopy="may-lose-guest") as daemon,
    ):
        await source.ticks(5)
        for one in (source, destination):
            await types(one, "migrate_set_capability events on")
            if before := BEFORE[mode]:
                await types(one, recipe(before, {}))
        await types(destination, recipe("monitor destination", {"0.0.0.0:49152": f"127.0.0.1:{port}"}))
        if mode == "postcopy":
            await types(source, "migrate_set_parameter max-bandwidth 100K")
        await types(source, recipe("monitor source", {"192.0.2.10:49152": f"127.0.0.1:{daemon.port}"}))
        if mode == "postcopy":
            await source.wait_until(lambda: "active" in source.qmp.statuses(), "begin of the migration")
            await types(source, recipe("monitor switch", {}))
        assert await source.migration_end() == "completed", source.account() + daemon.stderr.decode()
        assert ("postcopy-active" in source.qmp.statuses()) == (mode == "postcopy")
        await destination.ticks(5)
        assert await destination.running()
        said = {name for line in findings(source.serial, destination.serial) for name in line.split()}
        assert said == {"ok", *(f"id:{name}" for name in PAIR.identity)}
