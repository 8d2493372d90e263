"""Child processes that never outlive the lab."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

import trio

GRACE_SECONDS = 5
"""How long a process may take to end after SIGTERM."""


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
            ["setpriv", "--pdeathsig", "KILL", *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            env=env,
            start_new_session=True,  # Ctrl-C at the terminal is for the lab, which then ends its children
        )
        self._pidfd = os.pidfd_open(self._popen.pid)

    @property
    def pid(self) -> int:
        """The process's id; setpriv becomes the program, so it is the program's."""
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
