"""A real ``proxyd serve`` in a process of its own, between two QEMUs.

It is ready when it tells its service manager so, as under systemd; its log is read as JSON lines.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.qemu.machine import SECONDS

PROXYD = Path(sys.executable).with_name("proxyd")


class Daemon:
    """A running daemon with one route."""

    def __init__(self, process: trio.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.stderr = bytearray()
        self._news = trio.lowlevel.ParkingLot()

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log so far, one object a line."""
        return [json.loads(line) for line in self.stderr.decode().splitlines(keepends=True) if line.endswith("\n")]

    async def logged(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a log line for which *condition* holds and return it."""
        with trio.move_on_after(SECONDS):
            while True:
                for line in self.log:
                    if condition(line):
                        return line
                await self._news.park()
        raise AssertionError(f"proxyd did not log what was expected within {SECONDS} seconds\n{self.stderr.decode()}")

    async def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        async for chunk in self.process.stderr:
            self.stderr += chunk
            self._news.unpark_all()


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def proxyd(
    directory: Path,
    destination_port: int,
    *,
    tls: Mapping[str, str | bool | list[str]] | None = None,
    firewall: Mapping[str, str | bool | list[str]] | None = None,
    **route: str | list[str],
) -> AsyncIterator[Daemon]:
    """Run ``proxyd serve`` with one route to 127.0.0.1:*destination_port*.

    *route*, *tls* and *firewall* give its further keys.
    """
    port = free_port()
    keys = {"name": "test", "listen": f"127.0.0.1:{port}", "destination": f"127.0.0.1:{destination_port}", **route}
    config = directory / "proxyd.toml"
    config.write_text(
        '[metrics]\nlisten = "127.0.0.1:0"\n[log]\nformat = "json"\n[[route]]\n'
        + _keys(keys)
        + (f"[route.tls]\n{_keys(tls)}" if tls else "")
        + (f"[route.firewall]\n{_keys(firewall)}" if firewall else "")
    )
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        # Abstract namespace: a path below the test's directory can be too long for a socket's name.
        name = f"proxyd-test-{os.getpid()}-{port}"
        await manager.bind(f"\0{name}")
        process = await trio.lowlevel.open_process(
            [str(PROXYD), "serve", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "NOTIFY_SOCKET": f"@{name}"},
        )
        daemon = Daemon(process, port)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon._read_stderr)
                await _ready(manager, daemon)
                yield daemon
                process.send_signal(signal.SIGTERM)
                with trio.move_on_after(SECONDS) as waiting:
                    await process.wait()
                assert not waiting.cancelled_caught, f"proxyd ignored SIGTERM\n{daemon.stderr.decode()}"
        except BaseException as error:
            error.add_note(f"proxyd's log:\n{daemon.stderr.decode()}")
            raise
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
                assert process.stderr is not None
                await process.stderr.aclose()


def _keys(table: Mapping[str, str | bool | list[str]]) -> str:
    """Return *table* as TOML, of which JSON's strings, booleans and lists are a part."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


async def _ready(manager: trio.socket.SocketType, daemon: Daemon) -> None:
    """Wait for READY=1, or for the process to end before."""

    async def ended() -> None:
        await daemon.process.wait()
        nursery.cancel_scope.cancel()

    with trio.move_on_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended)
            while b"READY=1" not in (await manager.recv(4096)).split(b"\n"):
                pass
            nursery.cancel_scope.cancel()
            return
    raise AssertionError(
        f"proxyd serve is not ready (exit status {daemon.process.returncode})\n{daemon.stderr.decode()}"
    )
