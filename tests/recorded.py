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
