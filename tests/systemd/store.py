"""A stand-in for systemd as the service's manager: its notify socket, its file descriptor store, and its restarts.

For tests that restart a service hundreds of times, or where there is no systemd. It mirrors sd_notify(3),
sd_listen_fds(3) and, of systemd 252, ``src/core/service.c: service_add_fd_store, service_collect_fds``: what is stored
twice is kept once; what hangs up is dropped unless it was stored with FDPOLL=0; a restart, after a crash or on request,
passes the sockets of socket units first and then what was stored, the newest first; a stop empties the store.

What it is not: a test of the units (:mod:`tests.systemd.rig` is), and no sandbox. It accepts messages from any process,
as with ``NotifyAccess=all``.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SECONDS: Final = 60
"""Longest wait for anything; normal is a fraction of a second, but the machine may be busy."""

FIRST_FD: Final = 3
MAX_PASSED: Final = 253
"""File descriptors of one datagram: SCM_MAX_FD of Linux."""

HIGH: Final = 1024
"""Where descriptors are parked while they are moved to their places, which no source of one may be."""


class StandInError(AssertionError):
    """The service did otherwise than it should; says what, and what it printed."""


@dataclass(frozen=True, slots=True)
class Told:
    """One datagram of the service's."""

    sender: int
    """The process that sent it."""
    fields: Mapping[str, str]
    descriptors: int
    """How many file descriptors came with it."""


@dataclass(slots=True)
class _Stored:
    name: str
    descriptor: int
    identity: tuple[int, int, int]
    polled: bool


class StandIn:
    """One service and its manager. All methods may be called from any thread.

    :param command: what is started, and started again.
    :param environment: the service's whole environment, but for what the manager adds.
    :param directory: an empty one, for the notify socket and the service's log.
    :param sockets: listening sockets of socket units, by FileDescriptorName=.
    :param store_max: FileDescriptorStoreMax=.
    :param restart: whether a service that ends other than with status 0 is started again (Restart=on-failure).
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        *,
        sockets: Mapping[str, socket.socket] | None = None,
        store_max: int = 8192,
        restart: bool = True,
    ) -> None:
        self.log = directory / "service.log"
        self.told: list[Told] = []
        self.starts = 0
        self.pid = 0
        self._command = command
        self._environment = dict(environment)
        self._sockets = dict(sockets or {})
        self._store_max = store_max
        self._restart = restart
        self._stored: list[_Stored] = []
        self._wanted = True
        self._restart_asked = False
        self._ready_starts = 0
        self._exit: int | None = None
        self._pidfd: int | None = None
        self._changed = threading.Condition()
        self._poll = select.epoll()
        self._path = directory / "notify"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._notify.bind(str(self._path))
        self._bell, self._ringer = os.pipe()
        self._poll.register(self._notify, select.EPOLLIN)
        self._poll.register(self._bell, select.EPOLLIN)
        self._thread = threading.Thread(target=self._serve, name="stand-in for systemd")

    # What a test does.

    @property
    def stored(self) -> list[str]:
        """The names of what is stored, the oldest first."""
        with self._changed:
            return [one.name for one in self._stored]

    @property
    def exit_status(self) -> int | None:
        """How the service ended for good; None while it runs. Below zero, a signal. 256: a process of another's."""
        with self._changed:
            return self._exit

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Return once *condition* holds. Raises StandInError, with the service's log, after SECONDS."""
        with self._changed:
            if not self._changed.wait_for(condition, SECONDS):
                log = self.log.read_text(errors="replace")
                raise StandInError(f"no {what} within {SECONDS} seconds\n{self.told[-5:]}\n{log}")

    def wait_ready(self, starts: int = 1) -> None:
        """Until the service's process number *starts* has said READY=1."""
        self.wait_for(lambda: self._exit is not None or self._is_ready(starts), f"READY=1 of process {starts}")
        if self._exit is not None:
            raise StandInError(f"the service ended: status {self._exit}\n{self.log.read_text(errors='replace')}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the main process a signal."""
        os.kill(self.pid, number)

    def crash(self) -> None:
        """Kill the main process; the next one is ready at the end."""
        starts = self.starts
        self.kill()
        self.wait_ready(starts + 1)

    def restart(self) -> None:
        """``systemctl restart``: SIGTERM, wait for its end, start anew with what is stored."""
        with self._changed:
            starts, self._restart_asked = self.starts, True
        self.kill(signal.SIGTERM)
        self.wait_ready(starts + 1)

    def stop(self) -> int:
        """``systemctl stop``: SIGTERM, and wait for its end, without limit but SECONDS. Returns its exit status."""
        with self._changed:
            self._wanted = False
            if self._exit is None:
                os.kill(self.pid, signal.SIGTERM)
        self.wait_for(lambda: self._exit is not None, "end of the service")
        assert self._exit is not None
        return self._exit

    # The manager.

    def _is_ready(self, starts: int) -> bool:
        return self._ready_starts >= starts

    def _start(self) -> None:
        """Start the service with its sockets and what is stored at 3, 4, 5 ..."""
        passed = [(name, sock.fileno()) for name, sock in self._sockets.items()]
        passed += [(one.name, one.descriptor) for one in reversed(self._stored)]
        environment = {**self._environment, "NOTIFY_SOCKET": str(self._path)}
        if passed:
            environment["LISTEN_FDS"] = str(len(passed))
            environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in passed)
        parked = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH) for _, descriptor in passed]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_DUP2, descriptor, FIRST_FD + place) for place, descriptor in enumerate(parked)),
        ]
        # Only the process itself knows the pid that LISTEN_PID is to have.
        words = ["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"' if passed else 'exec "$@"', "sh", *self._command]
        self.pid = os.posix_spawn("/bin/sh", words, environment, file_actions=actions)
        for descriptor in parked:
            os.close(descriptor)
        self.starts += 1
        self._watch(self.pid)

    def _watch(self, pid: int) -> None:
        self._unwatch()
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._poll.register(self._pidfd, select.EPOLLIN)

    def _unwatch(self) -> None:
        if self._pidfd is not None:
            self._poll.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _serve(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll():
                with self._changed:
                    if descriptor == self._bell:
                        return
                    if descriptor == self._notify.fileno():
                        self._read()
                    elif descriptor == self._pidfd:
                        self._ended()
                    else:
                        self._drop([one for one in self._stored if one.descriptor == descriptor])
                    self._changed.notify_all()

    def _ended(self) -> None:
        self._unwatch()
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            status = 256  # one that the service itself has started: MAINPID=
        while select.select([self._notify], [], [], 0)[0]:
            self._read()  # what it said last comes before its end
        again = self._restart_asked or (self._wanted and self._restart and status != 0)
        self._restart_asked = False
        if again:
            self._start()
        else:
            self._exit = status
            self._drop(list(self._stored))

    def _read(self) -> None:
        space = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4 * MAX_PASSED)
        data, ancillary, _, _ = self._notify.recvmsg(1 << 16, space)
        sender, descriptors = 0, list[int]()
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors += memoryview(content[: len(content) // 4 * 4]).cast("i")
            elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                sender = int.from_bytes(content[:4], "little")
        fields = dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line)
        self.told.append(Told(sender, fields, len(descriptors)))
        name = fields.get("FDNAME", "stored")
        if fields.get("FDSTORE") == "1":
            for descriptor in descriptors:
                self._store(name, descriptor, polled=fields.get("FDPOLL") != "0")
            descriptors = []
        if fields.get("FDSTOREREMOVE") == "1":
            self._drop([one for one in self._stored if one.name == name])
        if "MAINPID" in fields:
            self._watch(int(fields["MAINPID"]))
        if fields.get("READY") == "1":
            self._ready_starts = self.starts
        for descriptor in descriptors:
            os.close(descriptor)  # BARRIER=1: the other end sees that all before it was read

    def _store(self, name: str, descriptor: int, *, polled: bool) -> None:
        about = os.fstat(descriptor)
        # The two ends of a pipe differ in their flags alone (systemd compares like this where there is no kcmp(2)).
        identity = about.st_dev, about.st_ino, fcntl.fcntl(descriptor, fcntl.F_GETFL)
        if len(self._stored) >= self._store_max or any(one.identity == identity for one in self._stored):
            os.close(descriptor)
            return
        polled = polled and not stat.S_ISREG(about.st_mode)
        if polled:
            self._poll.register(descriptor, 0)  # EPOLLHUP and EPOLLERR come unasked
        self._stored.append(_Stored(name, descriptor, identity, polled))

    def _drop(self, which: list[_Stored]) -> None:
        for one in which:
            self._stored.remove(one)
            if one.polled:
                self._poll.unregister(one.descriptor)
            os.close(one.descriptor)

    # Resource handling.

    def open(self) -> None:
        """Start the service."""
        self._start()
        self._thread.start()

    def close(self) -> None:
        """Kill what is left."""
        with self._changed:
            self._wanted = False
            self._restart_asked = False
            if self._exit is None:
                os.kill(self.pid, signal.SIGKILL)
        self.wait_for(lambda: self._exit is not None, "end of the service")
        os.write(self._ringer, b"\0")
        self._thread.join()
        self._poll.close()
        self._notify.close()
        os.close(self._bell)
        os.close(self._ringer)
