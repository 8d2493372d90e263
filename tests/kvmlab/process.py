"""Child processes that never outlive the lab."""

import ctypes
import functools
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

import trio

_LIBC = ctypes.CDLL(None)  # before any fork: loading it in the child could wait for a lock that nobody holds there
_PR_SET_PDEATHSIG = 1

GRACE_SECONDS = 5
"""How long a process may take to end after SIGTERM."""


def _die_with(parent: int) -> None:
    """In the child, before exec: ask for SIGKILL when the parent ends. Popen returns only when this is done."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was quicker
        os._exit(1)


class Process:
    """A child in a session of its own, killed by the kernel when this process dies, however it dies.

    Popen is called in trio's thread on purpose: the parent-death signal is sent when the *thread* that
    forked ends, and trio's own process functions fork in a worker thread, which ends when idle.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        output: int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            env=env,
            preexec_fn=functools.partial(_die_with, os.getpid()),
            start_new_session=True,  # Ctrl-C at the terminal is for the lab, which then ends its children
        )
        self._pidfd = os.pidfd_open(self._popen.pid)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._popen.pid

    async def wait(self) -> int:
        """Wait for the end; return the exit status, negative for a signal."""
        while (status := self._popen.poll()) is None:
            await trio.lowlevel.wait_readable(self._pidfd)
        return status

    async def stop(self) -> int:
        """End the process, politely at first; return its exit status. Calling it again does no harm."""
        if self._pidfd < 0:
            return self._popen.returncode
        with trio.CancelScope(shield=True):
            if self._popen.poll() is None:
                self._popen.send_signal(signal.SIGTERM)
                with trio.move_on_after(GRACE_SECONDS):
                    await self.wait()
            if self._popen.poll() is None:
                self._popen.kill()
            status = await self.wait()
        os.close(self._pidfd)
        self._pidfd = -1
        return status
