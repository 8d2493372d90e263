"""Kernel releases as knowledge speaks of them: major and minor, nothing else.

Stable updates change registers' rules now and then; where they do, the knowledge says so in words and the register
lists of the host, which are measured, decide.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_RELEASE: Final = re.compile(r"(\d+)\.(\d+)")


class KernelRelease(NamedTuple):
    """``6.12`` of ``6.12.107+deb13-cloud-arm64``."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def parse_kernel(text: str | None) -> KernelRelease | None:
    """The release in ``uname -r`` or in a plain ``6.12``; None if there is none."""
    match = _RELEASE.match(text or "")
    return KernelRelease(int(match[1]), int(match[2])) if match else None


class KernelRange(NamedTuple):
    """From one release up to and including another; None is open."""

    first: KernelRelease | None = None
    last: KernelRelease | None = None

    def __contains__(self, release: object) -> bool:
        return (self.first is None or release >= self.first) and (self.last is None or release <= self.last)  # type: ignore[operator]
