"""The machine, the versions, and what the kernel says of a process."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path


class Missing(Exception):
    """A program that the bench compares with is not installed."""


def program(name: str) -> str:
    """The path of a Debian program, which lives in /usr/sbin if it is a daemon."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise Missing(f"{name} is needed to compare with (apt-get install {name})")
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its threads, from the scheduler's own books: /proc/PID/stat counts in 10 ms."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def resident_bytes(pid: int, field: str = "VmHWM") -> int:
    """Resident memory: the highest (VmHWM) or the present (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} for process {pid}")


def queued_bytes(listen_port: int, destination_port: int) -> tuple[int, int]:
    """What waits in the kernel on a proxy's two legs: (received from the source, not yet taken by the destination)."""
    received = unsent = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, queues, *_ = line.split()
        if state != "01":
            continue
        transmit, receive = (int(part, 16) for part in queues.split(":"))
        if int(local.split(":")[1], 16) == listen_port:
            received += receive
        if int(remote.split(":")[1], 16) == destination_port:
            unsent += transmit
    return received, unsent


def listens(port: int) -> bool:
    """Whether somebody listens on a loopback port; asking by connecting would be a connection."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[3] == "0A" and int(row[1].split(":")[1], 16) == port for row in rows)


def description() -> dict[str, str]:
    """What the figures were taken on."""
    models = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "cpu": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "memory": f"{memory / 2**20:.1f} GiB",
        "kernel": f"Linux {platform.release().split('-')[0]} {platform.machine()}",
        "congestion": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "trio": version("trio"),
        "proxyd": version("proxyd"),
        "haproxy": _first_line("haproxy", "-v"),
        "socat": _first_line("socat", "-V", containing="version"),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _first_line(name: str, option: str, containing: str = "") -> str:
    try:
        output = subprocess.run([program(name), option], capture_output=True, text=True, check=False).stdout
    except Missing:
        return "not installed"
    line = next(line for line in output.splitlines() if containing in line)
    words = line.split()
    return words[words.index("version") + 1]
