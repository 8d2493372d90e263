"""Telling the service manager: sd_notify's protocol, one datagram a message, without libsystemd.

Mirrors sd_notify(3) and sd_watchdog_enabled(3). Outside a service (no ``NOTIFY_SOCKET``) every call does nothing, so
the daemon does not ask where it runs. A message that cannot be delivered is not worth a migration: it is dropped.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Final

import trio

MICROSECONDS: Final = 1_000_000


class ServiceNotifier:
    """One service manager's notification socket, or none.

    :param path: the value of ``NOTIFY_SOCKET``: an absolute path, or ``@name`` for Linux's abstract namespace.
    :param watchdog_s: the service manager kills the process after this many seconds without :meth:`alive`.
    """

    def __init__(self, path: str | None, watchdog_s: float | None = None) -> None:
        self._address = None if path is None else ("\0" + path[1:] if path.startswith("@") else path)
        self.watchdog_s = watchdog_s
        self._is_main = True

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int | None = None) -> ServiceNotifier:
        """What the environment says. ``WATCHDOG_PID`` of another process means that the watchdog is not ours."""
        path = environment.get("NOTIFY_SOCKET") or None
        watchdog_s = None
        ours = environment.get("WATCHDOG_PID", "") in {"", str(os.getpid() if pid is None else pid)}
        interval = environment.get("WATCHDOG_USEC", "")
        if ours and interval.isascii() and interval.isdigit() and int(interval) > 0:
            watchdog_s = int(interval) / MICROSECONDS
        return cls(path, watchdog_s)

    def ready(self, status: str) -> None:
        """Start-up is finished, or a reload is."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins. The time stamp lets the service manager match it with the request."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def hand_over(self, pid: int) -> None:
        """Another process is the service's main one from now on; what this one does is not the service's state."""
        self._tell(f"MAINPID={pid}")
        self._is_main = False

    def stopping(self, status: str) -> None:
        """A drain begins."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for ``systemctl status``."""
        self._tell(f"STATUS={status}")

    def alive(self) -> None:
        """The event loop turns."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if self._is_main:
            self._send(*lines)

    async def keep_alive(self) -> None:
        """Say :meth:`alive` for as long as this runs, if there is a watchdog."""
        while self.watchdog_s is not None:
            self.alive()
            # Half the time, as sd_watchdog_enabled(3) recommends.
            await trio.sleep(self.watchdog_s / 2)

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            # A service manager that does not read must not stop the migrations.
            notify.setblocking(False)
            try:
                notify.sendto("\n".join(" ".join(line.splitlines()) for line in lines).encode(), self._address)
            except OSError:
                return
