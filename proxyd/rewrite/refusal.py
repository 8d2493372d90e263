"""Refusing a legal stream: what is raised, and what is said where it could lose its guest.

Raising is safe before the release only (:mod:`.rewriter`): who takes its guest back after that is asked here, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxyd.rewrite.plan import Refusal
    from proxyd.rewrite.report import RewriteReport

NO_RETURN_PATH: Final = (
    "the stream has no return path: the source would call a failed migration complete and its guest would be lost; "
    "turn it on at the source and the destination (migrate_set_capability return-path on), "
    'or set return_path = "optional" on the route'
)


# QEMU 10.2 and later take their guest back if a postcopy package does not load (commit 7b842fe354). The machine type is
# the only thing that tells of the version before it is too late: virt-10.2 exists from that version on.
_TAKES_BACK: Final = (10, 2)
_MACHINE_VERSION: Final = re.compile(r"-(\d+)\.(\d+)$")

MAY_LOSE_GUEST: Final = (
    "the source may switch to postcopy, and its machine type ({machine}) does not show that it is QEMU 10.2 or later: "
    "an older one gives its guest up before it knows whether the destination takes it; turn postcopy off at the source "
    "(migrate_set_capability postcopy-ram off), or use a machine type of 10.2 or later, or set postcopy on the route: "
    '"sources-10.2" if all of its sources are, "may-lose-guest" if their guests may be lost'
)


class RewriteRefused(Exception):
    """A legal stream that the rules forbid to go on. ``refusals`` has one entry per register, or is empty."""

    def __init__(self, message: str, refusals: tuple[Refusal, ...] = (), report: RewriteReport | None = None) -> None:
        super().__init__(message)
        self.refusals = refusals
        self.report = report


def refused_for(refusals: tuple[Refusal, ...], report: RewriteReport) -> RewriteRefused:
    """The error for registers that may not be changed; it names the first."""
    first, *others = refusals
    more = f" (and {len(others)} more)" if others else ""
    return RewriteRefused(f"{first}{more}", refusals, report)


def takes_guest_back(machine: str | None) -> bool:
    """Whether this machine type is one that only QEMU 10.2 and later have."""
    found = _MACHINE_VERSION.search(machine or "")
    return found is not None and (int(found[1]), int(found[2])) >= _TAKES_BACK
