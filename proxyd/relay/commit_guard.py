"""Who may end a migration, and until when.

Up to the commit point anybody may: a limit, a drain, the other end's death. The source then resumes its guest. The
commit point is the first byte of the released device state that is handed to the kernel; from there on the guest may
come to life on the destination at any moment, so nothing of ours ends the session: no timer, no drain, no shutdown.

The guard is one cancel scope. Its deadline is the limit in force, :meth:`CommitGuard.abandon` cancels it, and
:meth:`CommitGuard.commit` shields it. Because there is one scope, there is no moment at which a migration is both
committed and abandoned.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from proxyd.relay.outcome import Ending


class CommitGuard:
    """The right to abandon one migration. Run the session inside ``with guard.scope``."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.committed = False
        self._ending: Ending | None = None
        self._allowance: Callable[[], float] = _no_limit
        self._expired: Callable[[], Ending] = _nothing_expired
        self._followers: list[CommitGuard] = []

    def allow(self, seconds: Callable[[], float], expired: Callable[[], Ending]) -> None:
        """From now on, ``seconds()`` may pass without :meth:`progress`; asked anew each time. If more do, ``expired()``
        says how the migration ended."""
        self._allowance = seconds
        self._expired = expired
        if not self.committed:
            self.scope.deadline = trio.current_time() + seconds()

    def allow_any_time(self) -> None:
        """From now on nothing expires: somebody else keeps the time."""
        self.allow(_no_limit, _nothing_expired)

    def progress(self) -> None:
        """Something moved. Called for every chunk, so the deadline is only moved when it is a hundredth wrong."""
        if not self.committed:
            allowance = self._allowance()
            deadline = trio.current_time() + allowance
            if abs(deadline - self.scope.deadline) > allowance / 100:
                self.scope.deadline = deadline

    async def commit(self) -> None:
        """Pass the commit point, or raise :class:`trio.Cancelled` because the migration was abandoned just before.

        Nothing else can run between the decision and the return. That the whole daemon was cancelled counts, too: the
        session's other task may have been told already, and would take a committed relay down with it.
        """
        self.scope.deadline = math.inf
        if trio.current_effective_deadline() == -math.inf:
            await trio.lowlevel.checkpoint()
            raise AssertionError("a cancelled scope lets no checkpoint pass")
        self.scope.shield = True
        self.committed = True
        for follower in self._followers:
            follower.follow()

    def lead(self, follower: CommitGuard) -> None:
        """``follower`` passes the commit point when this one does; it guards another channel of the same migration."""
        self._followers.append(follower)
        if self.committed:
            follower.follow()

    def follow(self) -> None:
        """The commit point was passed by the one that leads. Does nothing to a session that was abandoned before."""
        if self._ending is None:
            self.scope.deadline = math.inf
            self.scope.shield = True
            self.committed = True

    def abandon(self, ending: Ending) -> bool:
        """End the migration, unless it is committed. Says whether it could; the first reason given is the one kept."""
        if self.committed:
            return False
        if self._ending is None:
            self._ending = ending
        self.scope.cancel()
        return True

    @property
    def abandoned(self) -> bool:
        """Whether :meth:`abandon` has been heard."""
        return self._ending is not None

    @property
    def ending(self) -> Ending:
        """Why the scope was cancelled."""
        return self._ending or self._expired()


def _no_limit() -> float:
    return math.inf


def _nothing_expired() -> Ending:
    raise AssertionError("a scope without a deadline has expired")
