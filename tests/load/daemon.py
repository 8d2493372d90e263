"""The real daemon as a process of its own, with its instrument, its control socket and its metrics."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests import recorded
from tests.bench.machine import listens
from tests.load.streams import CPU, KERNEL

ROOT = Path(__file__).parents[2]
START_S = 60
STOP_S = 30


@dataclass(frozen=True)
class Daemon:
    """A running one."""

    ports: dict[str, int]
    metrics: int
    control: str
    log: Path
    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self) -> str:
        """Its log so far."""
        return self.log.read_text()

    def counted(self, outcome: str) -> int:
        """Connections that ended like this, as the metrics have it."""
        total = 0.0
        for line in scrape(self.metrics).splitlines():
            if line.startswith("proxyd_migrations_total") and f'outcome="{outcome}"' in line:
                total += float(line.rpartition(" ")[2])
        return round(total)

    def metric(self, name: str) -> float:
        """A metric without labels."""
        return next(float(line.split()[1]) for line in scrape(self.metrics).splitlines() if line.startswith(f"{name} "))

    def stop(self) -> dict[str, Any]:
        """SIGTERM, and another one to who is patient: end, and tell what the instrument has seen."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(STOP_S)
        assert code == 0, f"exit code 0 expected, found {code}: {self.lines()[-2000:]}"
        found: dict[str, Any] = json.loads((self.directory / "turns.json").read_text())
        return found


def scrape(port: int) -> str:
    """What the metrics port says."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        data = b""
        while chunk := connection.recv(1 << 16):
            data += chunk
    assert data.startswith(b"HTTP/1.0 200"), data[:100]
    return data.decode()


def ask(control: str, command: str, seconds: float = 30) -> dict[str, Any]:
    """What the control socket says."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(control)
        connection.sendall(json.dumps({"version": 1, "command": command, "arguments": {}}).encode() + b"\n")
        data = b""
        while chunk := connection.recv(1 << 16):
            data += chunk
    answer: dict[str, Any] = json.loads(data)
    return answer


def free_port() -> int:
    """A port of the loopback that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def configuration(
    directory: Path, routes: dict[str, str], ports: dict[str, int], metrics: int, control: str, more: dict[str, str]
) -> Path:
    """Every route goes to a host whose kernel needs rewritten registers. ``more``: what else a table says."""
    host = directory / "host.json"
    host.write_bytes(recorded.host_json(KERNEL, CPU))
    lines = ["[metrics]", f'listen = "127.0.0.1:{metrics}"', "[control]", f'socket = "{control}"']
    for table in ("log", "limits"):
        lines += [f"[{table}]", more.get(table, "")]
    for name, destination in routes.items():
        lines += ["[[route]]", f'name = "{name}"', f'listen = "127.0.0.1:{ports[name]}"']
        lines += [f'destination = "{destination}"', f'destination_host = "{host}"', more.get(name, "")]
    path = directory / "config.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def running(
    directory: Path,
    routes: dict[str, str],
    *,
    stderr: IO[bytes] | int | None = None,
    descriptors: int | None = None,
    **more: str,
) -> Iterator[Daemon]:
    """Start one and wait until it listens. ``stderr``: where its lines go instead of a file."""
    ports = {name: free_port() for name in routes}
    metrics, control = free_port(), str(directory / "control.sock")
    config = configuration(directory, routes, ports, metrics, control, more)
    log = directory / "log"
    command = [sys.executable, "-m", "tests.load.instrumented", str(directory / "turns.json"), "serve"]
    with log.open("ab") as lines:
        process = subprocess.Popen(
            [*command, "--config", str(config)],
            cwd=ROOT,
            stderr=lines if stderr is None else stderr,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        if descriptors is not None:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (descriptors, descriptors))
        deadline = time.monotonic() + START_S
        while not all(map(listens, (*ports.values(), metrics))):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the daemon does not listen: {log.read_text()}")
            time.sleep(0.02)
        yield Daemon(ports, metrics, control, log, process, directory)
    finally:
        process.kill()
        process.wait()
