"""Children of the lab die with it, also when it has no chance to end them."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.kvmlab.process import Process

SECONDS = 20
ROOT = Path(__file__).parents[2]

PARENT = """
import time
from tests.kvmlab.process import Process
print(Process(["sleep", "1000"]).pid, flush=True)
time.sleep(1000)
"""


def _ended(pidfd: int) -> bool:
    """Wait for a process's end; False when it does not come."""
    return bool(select.select([pidfd], [], [], SECONDS)[0])


def test_child_dies_when_the_lab_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    assert _ended(pidfd)
    os.close(pidfd)


async def test_stop_ends_a_child_and_may_be_called_again() -> None:
    process = Process(["sleep", "1000"])
    pidfd = os.pidfd_open(process.pid)
    assert await process.stop() == -signal.SIGTERM
    assert _ended(pidfd)
    assert await process.stop() == -signal.SIGTERM
    os.close(pidfd)
