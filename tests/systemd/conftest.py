"""One systemd for a module's tests, and a proxyd in it for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systemd.peers import Peers, peers
from tests.systemd.rig import Rig, rig


@pytest.fixture(scope="module")
def systemd() -> Iterator[Rig]:
    """A real systemd, in which no proxyd runs."""
    with rig() as one:
        yield one


@pytest.fixture
def service(systemd: Rig) -> Iterator[Peers]:
    """A proxyd that systemd has started, with a source and a destination."""
    with peers(systemd) as one:
        yield one
