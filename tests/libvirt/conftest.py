"""What the libvirt tests share: the hosts, and the guest's image."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.libvirt.rack import Rack, rack
from tests.qemu import counting


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    """Return the hosts, up for the whole run: libvirtd asks QEMU for all it can do once."""
    with rack(tmp_path_factory.mktemp("rack")) as up:
        yield up


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the counting guest as an ELF image."""
    return counting.build("counter", tmp_path_factory.mktemp("guest"))


@pytest.fixture
def racked(hosts: Rack, kernel: Path) -> Iterator[Rack]:
    """Return the hosts, with the guest running at the source."""
    with hosts.guest(kernel):
        yield hosts
