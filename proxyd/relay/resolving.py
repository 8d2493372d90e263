"""Names of destinations to addresses, without letting a resolver that hangs take anything else with it.

``getaddrinfo`` blocks, so it runs in threads, and a thread that hangs cannot be ended: whoever waited gives up, the
thread stays until the resolver answers (with two dead servers, 20 s by default: resolv.conf(5)). trio's threads are 40
for everything, and the service may not have many more (``TasksMax=``), so lookups have threads of their own, and no
name more than a few of them: one dead domain does not stop the lookups of others.
"""

from __future__ import annotations

import socket
from typing import Any, Final, cast

import trio

# Threads of all lookups. A lookup takes milliseconds, so these are a thousand a second.
MAX_LOOKUPS: Final = 16

# Threads that may be looking for the same name.
MAX_PER_NAME: Final = 4

Found = list[tuple[Any, ...]]  # what getaddrinfo returns


class Resolver:
    """Looks names up. One for the process, whose threads it counts."""

    def __init__(self) -> None:
        self._all = trio.CapacityLimiter(MAX_LOOKUPS)
        self._names: dict[str, trio.CapacityLimiter] = {}

    async def look_up(self, host: str, port: int) -> Found:
        """As ``getaddrinfo`` for a stream, which is what raises :class:`OSError`.

        A caller that is cancelled leaves at once; its thread stays behind, and keeps its place.
        """
        try:
            # An address is no name: nobody has to be asked.
            numbers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass
        else:
            await trio.lowlevel.checkpoint()
            return list(numbers)
        turn = _Turn(self._all, self._names, host)
        return list(
            await trio.to_thread.run_sync(
                _ask, host, port, abandon_on_cancel=True, limiter=cast(trio.CapacityLimiter, turn)
            )
        )


class _Turn:
    """A place among the lookups of one name, and one among all. It has what run_sync needs of a limiter."""

    def __init__(self, everybody: trio.CapacityLimiter, names: dict[str, trio.CapacityLimiter], name: str) -> None:
        self._all = everybody
        self._names = names
        self._name = name

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for both."""
        of_name = self._names.setdefault(self._name, trio.CapacityLimiter(MAX_PER_NAME))
        await of_name.acquire_on_behalf_of(borrower)
        try:
            await self._all.acquire_on_behalf_of(borrower)
        except BaseException:
            self._release_name(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        """The thread has ended, whether or not anybody still waited for it."""
        self._all.release_on_behalf_of(borrower)
        self._release_name(borrower)

    def _release_name(self, borrower: object) -> None:
        of_name = self._names[self._name]
        of_name.release_on_behalf_of(borrower)
        if not of_name.borrowed_tokens and not of_name.statistics().tasks_waiting:
            del self._names[self._name]


def _ask(host: str, port: int) -> Found:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
