"""The service manager as a keeper of file descriptors: sd_notify(3)'s FDSTORE, without libsystemd.

What is kept outlives this process and comes back to the next one with ``LISTEN_FDS`` and ``LISTEN_FDNAMES``
(sd_listen_fds(3)). The unit has to allow it with ``FileDescriptorStoreMax=``; where it does not, the descriptors are
dropped unseen, and nothing else changes.

systemd takes a message of a process that has died since as one of its service, because it reads them before it hears of
the death (``src/core/manager.c: manager_setup_notify``).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import trio

# Linux takes 253 with one message (SCM_MAX_FD).
_DESCRIPTORS_PER_MESSAGE: Final = 250

# The guest stands still while its descriptors are handed over. A service manager answers within a millisecond or is in
# trouble, and then a migration that would not survive a crash of ours is better than one that waits.
KEEP_TIME_S: Final = 0.25


class ServiceManagerStore:
    """A :class:`~proxyd.relay.keeping.DescriptorStore`. :meth:`run` delivers what could not be said at once.

    :param address: of the notification socket; a name of the abstract namespace begins with a zero byte.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._unsaid: list[str] = []
        self._wake = trio.Event()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ServiceManagerStore | None:
        """The one of the service that this process is, if it is one."""
        path = environment.get("NOTIFY_SOCKET") or None
        return None if path is None else cls("\0" + path[1:] if path.startswith("@") else path)

    async def keep(self, name: str, descriptors: Sequence[int]) -> bool:
        """See :class:`~proxyd.relay.keeping.DescriptorStore`."""
        # FDPOLL=0: what becomes of a connection is ours to see, whatever the service manager sees of it.
        message = f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0".encode()
        try:
            with trio.fail_after(KEEP_TIME_S):
                for start in range(0, len(descriptors), _DESCRIPTORS_PER_MESSAGE):
                    await self._send(message, descriptors[start : start + _DESCRIPTORS_PER_MESSAGE])
        except (OSError, trio.TooSlowError):
            self.forget(name)
            return False
        except trio.Cancelled:
            self.forget(name)
            raise
        return True

    def forget(self, name: str) -> None:
        """See :class:`~proxyd.relay.keeping.DescriptorStore`."""
        self._unsaid.append(name)
        self._say()

    async def run(self) -> None:
        """Say what a service manager that was busy has not heard, for as long as this runs."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            with suppress(OSError), self._connected() as notify:
                await trio.lowlevel.wait_writable(notify)
            self._say()

    async def _send(self, message: bytes, descriptors: Sequence[int]) -> None:
        with self._connected() as notify:
            while True:
                try:
                    socket.send_fds(notify, [message], list(descriptors))
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(notify)
                else:
                    return

    def _say(self) -> None:
        try:
            with self._connected() as notify:
                while self._unsaid:
                    notify.send(f"FDSTOREREMOVE=1\nFDNAME={self._unsaid[0]}".encode())
                    del self._unsaid[0]
        except BlockingIOError:
            self._wake.set()
        except OSError:
            self._unsaid.clear()  # there is no service manager any more

    def _connected(self) -> socket.socket:
        """A socket of its own for every message: a service manager that starts anew listens on another one."""
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            notify.connect(self._address)
        except BaseException:
            notify.close()
            raise
        return notify
