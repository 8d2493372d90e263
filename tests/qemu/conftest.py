"""What the QEMU tests share: the guest's image."""

from pathlib import Path

import pytest

from tests.qemu import counting


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the counting guest as an ELF image."""
    return counting.build(tmp_path_factory.mktemp("guest"))
