"""Every way that QEMU migrates, between every two versions that QEMU itself migrates between, through proxyd.

Each cell moves a guest that writes patterns all over its RAM, with a rewrite without which it would not load. The
controls show that the mode works without proxyd where nothing needs rewriting, and that the rewrite is needed.
"""

from pathlib import Path

import pytest

from tests.qemu import cells
from tests.qemu.cells import VERSION_PAIRS, Bench
from tests.qemu.modes import MODES, Mode
from tests.qemu.pairs import Pair
from tests.qemu.versions import QEMU_7_2, QEMU_10_0, QEMU_11_1, Version

pytestmark = pytest.mark.qemu

each_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
each_pair = pytest.mark.parametrize("pair", VERSION_PAIRS, ids=lambda pair: pair.name)
each_version = pytest.mark.parametrize("version", [QEMU_7_2, QEMU_10_0, QEMU_11_1], ids=lambda version: version.name)


@each_mode
@each_version
async def test_directly_to_an_equal_machine(bench: Bench, version: Version, mode: Mode, tmp_path: Path) -> None:
    await cells.directly(bench, version, mode, tmp_path)


@each_mode
@each_pair
async def test_without_proxyd_it_does_not_load(bench: Bench, pair: Pair, mode: Mode, tmp_path: Path) -> None:
    await cells.refused_directly(bench, pair, mode, tmp_path)


@each_mode
@each_pair
async def test_through_proxyd(bench: Bench, pair: Pair, mode: Mode, tmp_path: Path) -> None:
    await cells.through_proxyd(bench, pair, mode, tmp_path)
