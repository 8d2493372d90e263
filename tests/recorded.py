"""The recorded streams in ``tests/streams``: real KVM guests under real kernels, each with a .json that says how."""

from __future__ import annotations

import lzma
from functools import cache
from pathlib import Path

STREAMS = Path(__file__).parent / "streams"


def names() -> list[str]:
    """Every recorded stream, by name without its endings. An empty directory is an error, not an empty test."""
    found = sorted(path.name.removesuffix(".bin.xz") for path in STREAMS.glob("*.bin.xz"))
    if not found:
        raise AssertionError(f"no recorded stream in {STREAMS}")
    return found


@cache
def load(name: str) -> bytes:
    """The stream's bytes."""
    return lzma.decompress((STREAMS / f"{name}.bin.xz").read_bytes())


HOSTS = Path(__file__).parent / "hosts"
CPUS = ("neoverse-n1", "neoverse-v1", "max")
KERNELS = ("6.1", "6.12", "6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3")


@cache
def host_json(kernel: str, cpu: str) -> bytes:
    """The description of a real kernel's KVM on an emulated CPU (neoverse-n1, neoverse-v1 or max)."""
    return lzma.decompress((HOSTS / f"{kernel}-{cpu}.json.xz").read_bytes())


MODES = STREAMS / "modes"


def mode_names() -> list[str]:
    """Streams of small TCG guests (32 MiB, cortex-a57), one per mode of migration and version of QEMU."""
    found = sorted(path.name.removesuffix(".bin.xz") for path in MODES.glob("*.bin.xz"))
    if not found:
        raise AssertionError(f"no recorded stream in {MODES}")
    return found


@cache
def load_mode(name: str) -> bytes:
    """The main channel's bytes."""
    return lzma.decompress((MODES / f"{name}.bin.xz").read_bytes())
