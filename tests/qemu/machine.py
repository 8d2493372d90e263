"""One QEMU process with a guest of tests/guest in it, and what can be seen of it from outside.

The process talks to the test through two inherited sockets (monitor and serial line) and its standard error;
it is killed, by its own pid, when the context ends. Waiting is always for something QEMU said or did.
"""

import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.qemu.qmp import Qmp
from tests.qemu.versions import Version

SECONDS = 60
"""Longest wait for anything; normal is well under one second, but the machine may be busy."""


class Machine:
    """A running (or exited) QEMU."""

    def __init__(self, name: str, process: trio.Process, qmp: Qmp) -> None:
        self.name = name
        self.process = process
        self.qmp = qmp
        self.serial = bytearray()
        self.stderr = bytearray()

    async def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Return once *condition* holds; it is looked at whenever QEMU says anything."""
        with trio.move_on_after(SECONDS):
            while not condition():
                await self.qmp.news.park()
            return
        raise AssertionError(f"{self.name}: no {what} within {SECONDS} seconds\n{self.account()}")

    def account(self) -> str:
        """Return all that is known of this process, for failure messages."""
        return (
            f"{self.name}: exit status {self.process.returncode}, migration {self.qmp.statuses()}\n"
            f"{self.name} stderr: {self.stderr.decode()}\n{self.name} console: ...{self.serial[-200:]!r}"
        )

    def lines(self) -> int:
        """Return how many whole lines the guest printed here."""
        return self.serial.count(b"\n")

    async def ticks(self, number: int) -> None:
        """Wait until the guest has printed *number* more lines here."""
        wanted = self.lines() + number
        await self.wait_until(lambda: self.lines() >= wanted, f"tick of the guest ({wanted} lines)")

    async def incoming(self) -> int:
        """Make this (started with ``-incoming defer``) wait for a migration; return the TCP port."""
        await self.qmp.execute("migrate-incoming", uri="tcp:127.0.0.1:0")
        (address,) = (await self.qmp.execute("query-migrate"))["socket-address"]
        return int(address["port"])

    async def start_migration(self, port: int, *, return_path: bool = True, slowly: bool = False) -> None:
        """Begin to migrate to 127.0.0.1:*port*; *slowly*: memory takes seconds, so things can happen during it."""
        capabilities = {"events": True, "return-path": return_path}
        await self.qmp.execute(
            "migrate-set-capabilities",
            capabilities=[{"capability": name, "state": state} for name, state in capabilities.items()],
        )
        if slowly:
            await self.qmp.execute("migrate-set-parameters", **{"max-bandwidth": 200_000})
        await self.qmp.execute("migrate", uri=f"tcp:127.0.0.1:{port}")

    async def migration_end(self) -> str:
        """Wait for the end of the migration; return ``completed`` or ``failed``."""
        ends = {"completed", "failed"}
        await self.wait_until(lambda: bool(ends & set(self.qmp.statuses())), "end of the migration")
        return self.qmp.statuses()[-1]

    async def migrate(self, port: int, *, return_path: bool = True) -> str:
        """Migrate to 127.0.0.1:*port* and return how it ended."""
        await self.start_migration(port, return_path=return_path)
        return await self.migration_end()

    async def exited(self) -> int:
        """Wait for the process to end by itself; return its exit status."""
        with trio.move_on_after(SECONDS):
            status = await self.process.wait()
            await self.wait_until(lambda: self.stderr_closed, "end of standard error")
            return status
        raise AssertionError(f"{self.name} still runs after {SECONDS} seconds\n{self.account()}")

    async def running(self) -> bool:
        """Say whether the guest's CPU runs here."""
        return bool((await self.qmp.execute("query-status"))["running"])

    stderr_closed = False

    async def _read_serial(self, stream: trio.SocketStream) -> None:
        try:
            async for chunk in stream:
                self.serial += chunk
                self.qmp.news.unpark_all()
        except trio.BrokenResourceError:
            pass  # QEMU was killed

    async def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        async for chunk in self.process.stderr:
            self.stderr += chunk
            self.qmp.news.unpark_all()
        self.stderr_closed = True
        self.qmp.news.unpark_all()


def _socket_pair() -> tuple[trio.SocketStream, socket.socket]:
    """Return our end as a stream, and the end for QEMU to inherit."""
    ours, theirs = socket.socketpair()
    return trio.SocketStream(trio.socket.from_stdlib_socket(ours)), theirs


@asynccontextmanager
async def machine(
    name: str,
    version: Version,
    guest: Path,
    *,
    cpu: str,
    machine_type: str | None = None,
    destination: bool = False,
    extra: Sequence[str] = (),
) -> AsyncIterator[Machine]:
    """Run QEMU with *guest* (an ELF image); a *destination* waits to be told where to listen."""
    monitor, monitor_theirs = _socket_pair()
    console, console_theirs = _socket_pair()
    argv = [
        *version.command(),
        *("-M", machine_type or version.machine, "-cpu", cpu, "-m", "32", "-accel", "tcg,tb-size=16"),
        *("-nodefaults", "-nographic", "-kernel", str(guest)),
        *("-chardev", f"socket,id=monitor,fd={monitor_theirs.fileno()}", "-qmp", "chardev:monitor"),
        *("-chardev", f"socket,id=console,fd={console_theirs.fileno()}", "-serial", "chardev:console"),
        *(("-incoming", "defer") if destination else ()),
        *extra,
    ]
    process = await trio.lowlevel.open_process(
        argv,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[monitor_theirs.fileno(), console_theirs.fileno()],
    )
    monitor_theirs.close()
    console_theirs.close()
    try:
        async with trio.open_nursery() as nursery:
            qmp = Qmp(monitor)
            one = Machine(name, process, qmp)
            nursery.start_soon(qmp.run)
            nursery.start_soon(one._read_serial, console)
            nursery.start_soon(one._read_stderr)
            with trio.fail_after(SECONDS):
                await qmp.execute("qmp_capabilities")
            yield one
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for stream in (monitor, console, process.stderr):
                assert stream is not None
                await stream.aclose()
