"""What else QEMU can put into a stream, through proxyd, with a rewrite without which the guest would not load."""

from pathlib import Path

import pytest

from tests.qemu import cells
from tests.qemu.cells import Bench
from tests.qemu.modes import STREAMS, Mode
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
