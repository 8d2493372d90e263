"""The demo with two real QEMU processes under TCG, and a guest that counts.

Without KVM the kernels cannot differ, so the CPUs do: the source's has a performance monitoring unit, the destination's
has none, and with it goes a dozen registers. The guest is bare metal: it sleeps until its timer's interrupt, counts,
and prints whether its registers still hold what it put there.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import trio

from proxyd.demo.play import running_daemon
from proxyd.demo.recording import data
from proxyd.relay.intake import Rewriter
from proxyd.rewrite.report import RewriteReport

PROGRAM: Final = "qemu-system-aarch64"
SOURCE_CPU: Final = "neoverse-n1"
DESTINATION_CPU: Final = "neoverse-n1,pmu=off"
GUEST: Final = "counter.elf"
PROFILE: Final = "without-pmu.toml"

# What the profile changes with loss, and the route therefore allows by name.
ALLOW: Final = (
    "ID_DFR0_EL1",
    "ID_AA64DFR0_EL1",
    "op0:3 op1:3 crn:9 crm:12 op2:6",
    "op0:3 op1:3 crn:9 crm:12 op2:7",
)

# Either side normally takes well below a second for anything; a busy machine may take longer.
LONGEST_S: Final = 60.0

# Lines that the guest prints before and after: fifty a second.
TICKS: Final = 5


class QemuMissing(Exception):
    """No QEMU to show it with. The message says what to install."""


class QemuUnfit(Exception):
    """QEMU did something that the demo is not about: it did not start, or a step took too long."""


@dataclass(frozen=True, slots=True)
class QemuAttempt:
    """One migration: how the source ended it, what the destination printed, and what the guest printed where."""

    status: str
    error: str | None
    stderr: tuple[str, ...]
    source_lines: tuple[str, ...]
    destination_lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QemuStory:
    """All that there is to tell."""

    version: str
    direct: QemuAttempt
    proxied: QemuAttempt
    report: RewriteReport | None
    seconds: float


def find(program: str | None) -> str:
    """The QEMU to use: the one named, or that in PATH. Raises :class:`QemuMissing`."""
    found = shutil.which(program or PROGRAM)
    if found is None and program is not None:
        raise QemuMissing(f"{program}: no such program")
    if found is None:
        raise QemuMissing(
            f"{PROGRAM} not found; install it (Debian, Ubuntu: apt-get install qemu-system-arm; "
            "Fedora: dnf install qemu-system-aarch64), or name one with --qemu-binary PATH"
        )
    return found


async def play(program: str) -> QemuStory:
    """Migrate the counting guest, without and with proxyd. Raises :class:`QemuUnfit`."""
    try:
        return await _play(program)
    except ExceptionGroup as group:
        # Each QEMU has a nursery, and each nursery wraps what goes wrong inside.
        unfit, bugs = group.split(QemuUnfit)
        if unfit is None or bugs is not None:
            raise
        raise _innermost(unfit) from None


def _innermost(error: Exception) -> Exception:
    return _innermost(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


async def _play(program: str) -> QemuStory:
    began = trio.current_time()
    rewriters: list[Rewriter] = []
    with trio.move_on_after(LONGEST_S) as patience, resources.as_file(data(GUEST)) as guest:
        version = await _version(program)
        async with _qemu(program, guest, SOURCE_CPU) as source:
            await source.ticks(TICKS)
            async with _qemu(program, guest, DESTINATION_CPU, "-incoming", "defer") as waiting:
                direct = await _attempt(source, waiting, await waiting.listen())
            async with _qemu(program, guest, DESTINATION_CPU, "-incoming", "defer") as waiting:
                with resources.as_file(data(PROFILE)) as profile:
                    port = await waiting.listen()
                    towards = f'profile = "{profile.name}"\nallow = {json.dumps(ALLOW)}'
                    async with running_daemon(port, towards, profile.parent, rewriters) as address:
                        proxied = await _attempt(source, waiting, address.port)
    if patience.cancelled_caught:
        raise QemuUnfit(f"{program}: not done within {LONGEST_S:g} seconds")
    (rewriter,) = rewriters
    return QemuStory(version, direct, proxied, rewriter.report, trio.current_time() - began)


async def _attempt(source: _Qemu, destination: _Qemu, port: int) -> QemuAttempt:
    """One migration, until the guest has gone on counting at whichever end has it then."""
    before = len(source.events)
    await source.execute("migrate", uri=f"tcp:127.0.0.1:{port}")
    await source.wait_until(lambda: bool({"completed", "failed"} & set(source.statuses(before))))
    status = source.statuses(before)[-1]
    if status == "failed":
        await destination.process.wait()
        await source.ticks(TICKS)
    else:
        await destination.ticks(TICKS)
    error = (await source.execute("query-migrate")).get("error-desc")
    stderr = tuple(destination.stderr.decode(errors="replace").splitlines())
    return QemuAttempt(status, error, stderr, source.lines(), destination.lines())


async def _version(program: str) -> str:
    shown = await trio.run_process([program, "-version"], capture_stdout=True, check=False)
    return shown.stdout.decode(errors="replace").partition("\n")[0]


class _Qemu:
    """One process: its monitor (QMP) and serial line are sockets that it inherits."""

    def __init__(self, process: trio.Process, monitor: trio.SocketStream) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.serial = bytearray()
        self.stderr = bytearray()
        self.open_streams = 3
        self._monitor = monitor
        self._answers_in, self._answers = trio.open_memory_channel[dict[str, Any]](1)
        self._news = trio.Event()

    async def execute(self, command: str, **arguments: object) -> Any:
        """One QMP command."""
        try:
            await self._monitor.send_all(json.dumps({"execute": command, "arguments": arguments}).encode())
            answer = await self._answers.receive()
        except (trio.BrokenResourceError, trio.EndOfChannel):
            raise await self._ended() from None
        if "error" in answer:
            raise QemuUnfit(f"QEMU refused {command}: {answer['error']['desc']}")
        return answer["return"]

    async def listen(self) -> int:
        """Wait for a migration; the port."""
        await self.execute("migrate-incoming", uri="tcp:127.0.0.1:0")
        (address,) = (await self.execute("query-migrate"))["socket-address"]
        return int(address["port"])

    def statuses(self, since: int) -> list[str]:
        """The states of the migrations since an event."""
        return [event["data"]["status"] for event in self.events[since:] if event["event"] == "MIGRATION"]

    def lines(self) -> tuple[str, ...]:
        """The whole lines that the guest printed here."""
        return tuple(self.serial.decode("ascii", "replace").split("\n")[:-1])

    async def ticks(self, number: int) -> None:
        """Until the guest has printed so many more lines here."""
        wanted = self.serial.count(b"\n") + number
        await self.wait_until(lambda: self.serial.count(b"\n") >= wanted)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until it holds; looked at whenever the process says anything."""
        while not condition():
            if not self.open_streams:
                raise await self._ended()
            await self._news.wait()

    async def read_monitor(self) -> None:
        """Keep events, pass answers on."""
        rest = b""
        async with self._answers_in:
            while chunk := await _receive(self._monitor):
                *lines, rest = (rest + chunk).split(b"\n")
                for message in map(json.loads, lines):
                    if "event" in message:
                        self.events.append(message)
                    elif "QMP" not in message:
                        await self._answers_in.send(message)
                self._tell()
            self._closed()

    async def read_into(self, sink: bytearray, stream: trio.abc.ReceiveStream) -> None:
        """Keep what comes on the serial line or on standard error."""
        while chunk := await _receive(stream):
            sink += chunk
            self._tell()
        self._closed()

    async def _ended(self) -> QemuUnfit:
        while self.open_streams:
            await self._news.wait()
        said = self.stderr.decode(errors="replace").strip() or "without a word on standard error"
        return QemuUnfit(f"QEMU ended: {said}")

    def _closed(self) -> None:
        self.open_streams -= 1
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


async def _receive(stream: trio.abc.ReceiveStream) -> bytes:
    """What came; empty when the other end is closed or dead."""
    try:
        return bytes(await stream.receive_some())
    except trio.BrokenResourceError:
        return b""


@asynccontextmanager
async def _qemu(program: str, guest: Path, cpu: str, *more: str) -> AsyncIterator[_Qemu]:
    """Run one QEMU; killed at the end. Raises :class:`QemuUnfit` if it does not start."""
    (monitor, monitor_theirs), (console, console_theirs) = socket.socketpair(), socket.socketpair()
    with monitor_theirs, console_theirs:
        command = [
            *(program, "-M", "virt", "-cpu", cpu, "-m", "32", "-accel", "tcg,tb-size=16", "-nodefaults", "-nographic"),
            *("-kernel", str(guest)),
            *("-chardev", f"socket,id=monitor,fd={monitor_theirs.fileno()}", "-qmp", "chardev:monitor"),
            *("-chardev", f"socket,id=console,fd={console_theirs.fileno()}", "-serial", "chardev:console"),
            *more,
        ]
        inherited = (monitor_theirs.fileno(), console_theirs.fileno())
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=inherited
        )
    errors = process.stderr
    if errors is None:
        raise AssertionError("standard error is a pipe")
    streams = [trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in (monitor, console)]
    qemu = _Qemu(process, streams[0])
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(qemu.read_monitor)
            nursery.start_soon(qemu.read_into, qemu.serial, streams[1])
            nursery.start_soon(qemu.read_into, qemu.stderr, errors)
            await qemu.execute("qmp_capabilities")
            wanted = [{"capability": name, "state": True} for name in ("events", "return-path")]
            await qemu.execute("migrate-set-capabilities", capabilities=wanted)
            yield qemu
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for stream in (*streams, errors):
                await stream.aclose()
