"""What the QEMU tests share: the guests' images."""

from pathlib import Path

import pytest

from tests.qemu import counting


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the counting guest as an ELF image."""
    return counting.build("counter", tmp_path_factory.mktemp("guest"))


@pytest.fixture(scope="session")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the guest that watches its RAM as an ELF image."""
    return counting.build("patterns", tmp_path_factory.mktemp("guest"))
