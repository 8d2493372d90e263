"""What else QEMU can put into a stream, through proxyd, with a rewrite without which the guest would not load."""

from pathlib import Path

import pytest

from tests.qemu import cells
from tests.qemu.cells import Bench
from tests.qemu.daemon import proxyd
from tests.qemu.modes import STREAMS, Mode
from tests.qemu.moving import assert_stayed
from tests.qemu.pairs import PAIRS, Pair

pytestmark = pytest.mark.qemu

CELLS = [
    pytest.param(pair, mode, id=f"{mode.name}-{pair.source.name}")
    for mode in STREAMS
    for pair in PAIRS
    if pair.name == f"{pair.source.name}-pmu" and pair.source.name in mode.versions
]


@pytest.mark.parametrize(("pair", "mode"), CELLS)
async def test_directly(bench: Bench, pair: Pair, mode: Mode, tmp_path: Path) -> None:
    await cells.directly(bench, pair.source, mode, tmp_path)


@pytest.mark.parametrize(("pair", "mode"), CELLS)
async def test_through_proxyd(bench: Bench, pair: Pair, mode: Mode, tmp_path: Path) -> None:
    await cells.through_proxyd(bench, pair, mode, tmp_path)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.name.endswith("-pmu")], ids=lambda pair: pair.name)
async def test_background_snapshot(bench: Bench, pair: Pair, tmp_path: Path) -> None:
    """A stream whose RAM has no end; the source's guest runs on, and its copy begins where the snapshot was taken."""
    async with cells.machines(bench, pair, Mode("background-snapshot"), tmp_path) as (source, destination):
        names = ("events", "background-snapshot")  # QEMU refuses it together with the return path
        await source.qmp.execute(
            "migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names]
        )
        port = await destination.incoming()
        async with proxyd(tmp_path, port, profile=str(pair.profile_path), return_path="optional") as daemon:
            await source.qmp.execute("migrate", uri=f"tcp:127.0.0.1:{daemon.port}")
            assert await source.migration_end() == "completed", source.account() + daemon.stderr.decode()
            await destination.ticks(10)
        await assert_stayed(source)
        _, *copied = destination.serial.decode().split("\n")[:-1]  # the first line may have begun at the source
        assert {line.split(" ", 1)[1] for line in copied} == {"ok"}
