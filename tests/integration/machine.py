"""A proxyd as a process, what takes its place, and a destination that listens; all of it on the loopback addresses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from proxyd.control.client import ask
from proxyd.control.protocol import ControlError
from tests import builders as b
from tests.proxyd.relay.stage import SHUT_0

SECONDS = 60
"""Longest wait for anything."""

END_S = 10
"""How long a process may take to drain at the end of a test; its migrations have lost both their ends."""

HEAD = b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH + b.ram()
WIRE = HEAD + b.tail([b.Device(b"0000:00:02.0/virtio-gpu", b"state" * 1000)])

POSTCOPY_HEAD = (
    b.MAGIC
    + b.configuration()
    + b.OPEN_RETURN_PATH
    + b.POSTCOPY_ADVISE
    + b.start(2, b.mem_size({b"mach-virt.ram": 1 << 28}) + b.EOS)
)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"no {what} within {SECONDS} seconds"
        time.sleep(0.01)


def a_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Machine:
    """A proxyd, those that take its place, and a destination that listens."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.destination = socket.create_server(("127.0.0.1", 0))
        self.destination.settimeout(SECONDS)
        self.port, self.metrics = a_port(), a_port()
        self.control = str(directory / "control.sock")
        self.entrance = str(directory / "in.sock")
        self.config = directory / "config.toml"
        self.log = directory / "log"
        self.pids: list[int] = []
        self.limits = ""
        self.listen = f"127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._open: list[socket.socket] = []
        self.configure()

    @contextmanager
    def closing(self) -> Iterator[Machine]:
        """Nothing of it is left afterwards."""
        try:
            yield self
        finally:
            self.close()

    def configure(self, more: str = "") -> None:
        towards = f'destination = "127.0.0.1:{self.destination.getsockname()[1]}"\npostcopy = "may-lose-guest"\n'
        self.config.write_text(
            f'[metrics]\nlisten = "127.0.0.1:{self.metrics}"\n[control]\nsocket = "{self.control}"\n'
            f"[limits]\n{self.limits}\n"
            f'[[route]]\nname = "lab"\nlisten = "{self.listen}"\n{towards}'
            f'[[route]]\nname = "unix"\nlisten = "unix:{self.entrance}"\n{towards}{more}'
        )

    def command(self) -> list[str]:
        return [sys.executable, "-m", "proxyd.cli", "serve", "--config", str(self.config)]

    def start(self) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command(), stderr=log)
        self.pids.append(self.process.pid)
        wait_until(lambda: Path(self.control).exists() and self.answers(), "proxyd")

    def answers(self) -> bool:
        with suppress(Exception):
            return bool(self.ask("status"))
        return False

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return ask(self.control, command, arguments)

    def upgrade(self) -> int:
        pid = int(self.ask("upgrade")["process"])
        self.pids.append(pid)
        return pid

    def can_upgrade(self) -> bool:
        """Upgrade, unless a connection that has not said what it is keeps the process before at the door."""
        try:
            self.upgrade()
        except ControlError as error:
            if "still accepts connections for its own migrations" not in str(error):
                raise
            return False
        return True

    def source(self) -> socket.socket:
        return self.keep(socket.create_connection(("127.0.0.1", self.port), SECONDS))

    def accept(self) -> socket.socket:
        return self.keep(self.destination.accept()[0])

    def keep(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(SECONDS)
        self._open.append(sock)
        return sock

    def text(self) -> str:
        return self.log.read_text()

    def migrates(self) -> None:
        """A whole migration, from its first byte to the verdict."""
        source = self.source()
        source.sendall(WIRE)
        finish(source, self.accept(), WIRE)

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=SECONDS) as answer:
            return str(answer.read().decode())

    def close(self) -> None:
        """Nothing of it is left. What can end by itself does: what a killed process has covered is not counted."""
        for sock in self._open:
            sock.close()
        self.destination.close()
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + END_S
        while any(runs(pid) for pid in self.pids) and time.monotonic() < end:
            time.sleep(0.01)
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


def runs(pid: int) -> bool:
    """Whether the process has not ended; it may be nobody's child that waits for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def read_exactly(sock: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        chunk = sock.recv(count - len(got))
        assert chunk, f"the connection ended after {len(got)} of {count} bytes"
        got += chunk
    return bytes(got)


def finish(source: socket.socket, destination: socket.socket, wire: bytes) -> None:
    """The destination gets ``wire``, and both part as two QEMUs that are content."""
    assert read_exactly(destination, len(wire)) == wire
    destination.sendall(SHUT_0)
    destination.close()
    assert read_exactly(source, len(SHUT_0)) == SHUT_0
    assert source.recv(1) == b""
    source.close()
