"""What the QEMU tests share: the guests' images and certificates."""

from pathlib import Path

import pytest

from tests.qemu import counting
from tests.qemu.cells import Bench


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the counting guest as an ELF image."""
    return counting.build("counter", tmp_path_factory.mktemp("guest"))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Return what the cells of the matrix use."""
    return Bench.make(tmp_path_factory.mktemp("bench"))
