"""File descriptors: how many the process may have, and how many connections that is.

A process without a descriptor left cannot dial, splice or answer: every migration would suffer for the ones that were
accepted last. So the limits on connections are lowered to what fits, when they come into force and not when it is late.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from proxyd.config import LimitsConfig
from proxyd.journal import Journal
from proxyd.relay.held_memory import HeldMemory
from proxyd.relay.listener import Sessions

# A channel's two sockets, and a pipe for each direction; a main one has three files beside that, past its commit point.
PER_CONNECTION: Final = 9

# What is neither: listening sockets (temporary routes alone may be 256), clients of the control socket and of the
# metrics port, files that a reload reads.
RESERVED: Final = 512


@dataclass(frozen=True, slots=True)
class Fitting:
    """The limits that fit. ``remark`` says so where they are lower than what was asked for."""

    connections: int
    silent_connections: int
    remark: str | None = None


def available() -> int:
    """How many descriptors the process may have, after its soft limit was raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # a sandbox that allows no such call
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return hard
    return soft


def put_in_force(limits: LimitsConfig, sessions: Sessions, held: HeldMemory, journal: Journal) -> None:
    """Bound what a daemon takes on: what of ``limits`` fits, and a line if that is not all of it."""
    fits = fitting(limits, available())
    sessions.limit = fits.connections
    sessions.strangers.limit = fits.silent_connections
    held.limit = limits.held_bytes
    if fits.remark is not None:
        journal.warning(fits.remark)


def fitting(limits: LimitsConfig, descriptors: int) -> Fitting:
    """What of ``limits`` fits into so many descriptors."""
    wanted = RESERVED + PER_CONNECTION * limits.connections + limits.silent_connections
    if wanted <= descriptors:
        return Fitting(limits.connections, limits.silent_connections)
    # A process with very few keeps half of them back.
    room = max(descriptors - RESERVED, descriptors // 2)
    silent = max(1, min(limits.silent_connections, room // 4))
    connections = max(1, min(limits.connections, (room - silent) // PER_CONNECTION))
    remark = (
        f"limits.connections = {limits.connections} and limits.silent_connections = {limits.silent_connections} need "
        f"{wanted} file descriptors, and the process may have {descriptors} (LimitNOFILE=): {connections} and {silent} "
        "are served"
    )
    return Fitting(connections, silent, remark)
