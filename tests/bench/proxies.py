"""The proxies that are compared: proxyd as it is run, and socat and haproxy set up as well as they can be."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tests.bench.load import loopback_listener
from tests.bench.machine import listens, program

PROXYD = Path(sys.executable).with_name("proxyd")
START_SECONDS = 30


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    port: int
    pid: int


# (scratch directory, port to listen on, port of the destination) -> command line
Command: TypeAlias = Callable[[Path, int, int], list[str]]


def direct(_directory: Path, _listen: int, _destination: int) -> list[str]:
    """No proxy."""
    return []


def socat(*options: str) -> Command:
    """One connection from port to port."""

    def command(_directory: Path, listen: int, destination: int) -> list[str]:
        addresses = [f"TCP-LISTEN:{listen},bind=127.0.0.1,reuseaddr", f"TCP:127.0.0.1:{destination}"]
        return [program("socat"), *options, *addresses]

    return command


def haproxy(*, splice: bool, pipe_bytes: int | None = None) -> Command:
    """TCP mode, one thread as everybody here."""

    def command(directory: Path, listen: int, destination: int) -> list[str]:
        config = directory / "haproxy.cfg"
        config.write_text(
            "global\n nbthread 1\n"
            + (f" tune.pipesize {pipe_bytes}\n" if pipe_bytes else "")
            + "defaults\n mode tcp\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n"
            + (" option splice-request\n option splice-response\n" if splice else "")
            + f"frontend in\n bind 127.0.0.1:{listen}\n default_backend out\n"
            + f"backend out\n server destination 127.0.0.1:{destination}\n"
        )
        return [program("haproxy"), "-db", "-q", "-f", str(config)]

    return command


def proxyd(**route: str) -> Command:
    """``proxyd serve`` with one route, to which ``route`` adds keys."""

    def command(directory: Path, listen: int, destination: int) -> list[str]:
        config = directory / "proxyd.toml"
        keys = {"name": "bench", "listen": f"127.0.0.1:{listen}", "destination": f"127.0.0.1:{destination}"} | route
        lines = ["[metrics]", 'listen = "127.0.0.1:0"', "[[route]]"] + [
            f'{key} = "{text}"' for key, text in keys.items()
        ]
        config.write_text("\n".join(lines) + "\n")
        return [str(PROXYD), "serve", "--config", str(config)]

    return command


@contextmanager
def running(command: Command, directory: Path, destination: int) -> Iterator[Proxy | None]:
    """Start a proxy and wait until it listens; None is no proxy."""
    with loopback_listener() as probe:
        port = probe.getsockname()[1]
    arguments = command(directory, port, destination)
    if not arguments:
        yield None
        return
    log = directory / f"{Path(arguments[0]).name}.log"
    with log.open("ab") as output, subprocess.Popen(arguments, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"{arguments[0]} does not listen on port {port}\n{log.read_text()}")
                time.sleep(0.02)
            yield Proxy(port, process.pid)
        finally:
            process.kill()
