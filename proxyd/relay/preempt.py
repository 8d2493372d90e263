"""When a migration takes a connection that says nothing for its postcopy preempt channel.

That channel has no magic number and is silent until the first urgent page. What tells it from a port probe is its time:
a source connects it when the migration is set up (machine types up to 7.2) or when it switches to postcopy (later ones;
``migration/migration.c: postcopy_start``), in both cases right before something that can be seen on the main channel.

A wrong guess does harm either way. A probe that is dialled finds a destination that takes no more connections, which
fails the migration. A preempt channel that is dialled late keeps the first pages from a guest that has stopped.
"""

from __future__ import annotations

import math
from typing import Final

from formats.channel import preempts_from_setup

# Seconds after the main channel's first bytes: the two connections are made at once, and a lost SYN is sent again after
# one second.
AT_SETUP_S: Final = 1.5

# Seconds for which a source may still be busy with that connection. QEMU 7.2 aborts, and its guest is gone, if the
# migration fails meanwhile: the connection's callback registers with a migration that is no more (util/yank.c:
# yank_register_function). It takes some milliseconds, and on a busy host a second or two.
SETTLE_S: Final = 2

# Seconds before the package: in between the source stops its vCPUs and flushes its disks.
BEFORE_SWITCH_S: Final = 5


class PreemptWindow:
    """Times of accept that fit one migration's preempt channel.

    :param began: when the main channel spoke.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._until = -math.inf  # those accepted up to then
        self._since = math.inf  # and those accepted from then on
        self._settled = -math.inf  # the source is done with setting up what it connects
        self._advised = False
        self._taken = False

    def advise(self, machine: str | None, *, visible: bool) -> None:
        """The source may switch to postcopy. ``visible``: it will be seen when it does."""
        self._advised = True
        if not visible:
            self._since = -math.inf
        elif preempts_from_setup(machine):
            self._until = self._began + AT_SETUP_S
            self._settled = self._began + SETTLE_S

    def switch(self, now: float) -> bool:
        """The source switches to postcopy. Whether this was news."""
        news = self._advised and self._since == math.inf
        if news:
            self._since = now - BEFORE_SWITCH_S
        return news

    def unsettled(self, now: float) -> float:
        """For how many more seconds a source must not see its migration fail: it is setting up its preempt channel."""
        return max(0.0, self._settled - now)

    def recover(self) -> None:
        """The main channel is a recovery's: its preempt channel may come at any time."""
        self._since = -math.inf

    @property
    def is_awaited(self) -> bool:
        """Whether one may come still."""
        return self._advised and not self._taken

    def take(self) -> None:
        """It has come: there is only one."""
        self._taken = True

    def fits(self, arrived: float) -> bool:
        """Whether a connection that was accepted then can be the preempt channel."""
        return not self._taken and (arrived <= self._until or arrived >= self._since)
