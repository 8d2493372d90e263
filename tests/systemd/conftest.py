"""One systemd for a module's tests, and a proxyd in it for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systemd.rig import Rig, rig


@pytest.fixture(scope="module")
def systemd() -> Iterator[Rig]:
    """A real systemd, in which no proxyd runs."""
    with rig() as one:
        yield one
