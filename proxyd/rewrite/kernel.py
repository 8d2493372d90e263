"""Kernel releases as knowledge speaks of them: major and minor, nothing else.

Stable updates change registers' rules now and then. What a list or a mask shows is measured on the host; where it takes
knowledge, the entry names the last stable update that is known.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_RELEASE: Final = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


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


def parse_patch(text: str | None) -> int | None:
    """The stable update in ``uname -r``: 107 of ``6.12.107+deb13``; None if it is not said."""
    match = _RELEASE.match(text or "")
    return int(match[3]) if match and match[3] else None


class KernelRange(NamedTuple):
    """From one release up to and including another; None is open."""

    first: KernelRelease | None = None
    last: KernelRelease | None = None

    def __contains__(self, release: object) -> bool:
        return (self.first is None or release >= self.first) and (self.last is None or release <= self.last)  # type: ignore[operator]

    def __str__(self) -> str:
        """As people say it."""
        if self.first is not None and self.last is not None:
            return f"Linux {self.first}" if self.first == self.last else f"Linux {self.first} to {self.last}"
        if self.first is not None:
            return f"Linux {self.first} and newer"
        return "every kernel" if self.last is None else f"Linux {self.last} and older"
