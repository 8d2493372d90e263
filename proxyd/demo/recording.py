"""The data that the demo plays with: a recorded stream, and the register list of another kernel."""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from proxyd.rewrite.host import HostDescription

STREAM: Final = "linux-6.12-neoverse-n1"
HOST: Final = "linux-7.3-neoverse-n1.json"


@dataclass(frozen=True, slots=True)
class Recording:
    """A stream as a source wrote it, and where it is from."""

    stream: bytes
    kernel: str
    qemu: str
    cpu: str
    vcpus: int


def data(name: str) -> Traversable:
    """A file of the demo's data."""
    return resources.files("proxyd.demo").joinpath("data", name)


@cache
def recording() -> Recording:
    """A guest of QEMU 10.0 with one vCPU and 16 MiB, migrated with the return path under Linux 6.12."""
    how = json.loads(data(f"{STREAM}.json").read_bytes())
    stream = lzma.decompress(data(f"{STREAM}.bin.xz").read_bytes())
    return Recording(stream, how["kernel"], how["qemu"], how["cpu"], how["vcpus"])


@cache
def destination_host() -> HostDescription:
    """The registers that a real Linux 7.3 listed on the same CPU, and what its KVM lets be written."""
    return HostDescription.parse(data(HOST).read_bytes(), HOST)
