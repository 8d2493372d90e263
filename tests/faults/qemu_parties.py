"""The processes of the real campaign: QEMUs that live and die one by one, and the proxies between them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.bench.machine import listens
from tests.bench.proxies import PROXYD, haproxy, socat
from tests.qemu.machine import Machine, machine
from tests.qemu.pairs import PROFILES
from tests.qemu.qmp import QmpError
from tests.qemu.versions import QEMU_10_0, Version
from tests.systemd.store import StandIn

WITH_PMU, WITHOUT_PMU = "neoverse-n1", "neoverse-n1,pmu=off"
PROFILE = PROFILES / "without-pmu.toml"

ASK_S = 30.0
"""How long a QEMU may take to answer: one that is slow on a busy machine runs its guest all the same."""

GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel, QmpError)


@dataclass(frozen=True, slots=True)
class Kind:
    """What guests are moved: a version of QEMU and the guest's image."""

    version: Version
    guest: Path


class Qemu:
    """A QEMU that stays until it is told to go."""

    def __init__(self, one: Machine, leave: trio.Event) -> None:
        self.machine = one
        self._leave = leave

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self.machine.process.poll() is not None

    def leave(self) -> None:
        """kill -9, and clean up."""
        self._leave.set()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if not self.ended:
            self.machine.process.send_signal(number)

    async def ask(self, command: str, **arguments: object) -> dict[str, object]:
        """Run a monitor command; {} if there is nobody to answer."""
        if not self.ended:
            with trio.move_on_after(ASK_S):
                try:
                    answer = await self.machine.qmp.execute(command, **arguments)
                except GONE:
                    return {}
                return dict(answer)
        return {}

    async def runs(self, seconds: float = 0) -> bool:
        """Whether the guest runs here, or does so within that time."""
        until = trio.current_time() + seconds
        while True:
            if (await self.ask("query-status")).get("running", False):
                return True
            if self.ended or trio.current_time() >= until:
                return False
            await trio.sleep(0.05)

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for *condition*, which is looked at whenever QEMU says something; says whether it came to hold."""
        with trio.move_on_after(seconds):
            while not condition() and not self.ended:
                with trio.move_on_after(0.1):  # its end says nothing
                    await self.machine.qmp.news.park()
        return condition()

    async def goes_on(self, lines: int, seconds: float) -> bool:
        """Say whether the guest prints so many more lines here in that time."""
        wanted = self.machine.lines() + lines
        return await self.until(lambda: self.machine.lines() >= wanted, seconds)

    @property
    def statuses(self) -> list[str]:
        """States of its migration so far."""
        return self.machine.qmp.statuses()


async def start(
    nursery: trio.Nursery,
    kind: Kind,
    cpu: str,
    *,
    destination: bool,
    paused: bool = False,
    capabilities: Sequence[str] = (),
) -> Qemu:
    """Start one."""
    qemu: Qemu = await nursery.start(_live, kind, cpu, destination, paused)
    names = ("events", "return-path", *capabilities)
    await qemu.machine.qmp.execute(
        "migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names]
    )
    return qemu


async def _live(
    kind: Kind, cpu: str, destination: bool, paused: bool, task_status: trio.TaskStatus[Qemu] = trio.TASK_STATUS_IGNORED
) -> None:
    name = "destination" if destination else "source"
    extra = ("-S",) if paused else ()
    async with machine(name, kind.version, kind.guest, cpu=cpu, destination=destination, extra=extra) as one:
        leave = trio.Event()
        task_status.started(Qemu(one, leave))
        await leave.wait()


class Proxy:
    """A proxy with a fixed port to listen on for each lane, towards a fixed port; started anew when it has died."""

    def __init__(self, name: str, directory: Path, lanes: Sequence[tuple[int, int]], limits: str, route: str) -> None:
        self.name = name
        self.lanes = lanes
        self._directory = directory
        self._limits = limits
        self._route = route
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    async def ready(self) -> None:
        """See that it runs and listens."""
        if self.name == "direct":
            return
        # socat carries one connection and ends.
        if self._process is not None and self.name != "socat" and self._process.poll() is None and not self._stopped:
            return
        self.end()
        self._stopped = False
        log = self._directory / f"{self.name}.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        with trio.move_on_after(60):
            while not all(listens(port) for port, _ in self.lanes[: 2 if self.name == "proxyd" else 1]):
                if self._process.poll() is not None:
                    break
                await trio.sleep(0.02)
            else:
                return
        raise AssertionError(f"{self.name} does not listen\n{log.read_text()[-2000:]}")

    def _command(self) -> list[str]:
        (listen, destination), *_ = self.lanes
        if self.name == "socat":
            return socat("-t", "3600")(self._directory, listen, destination)
        if self.name == "haproxy":
            return haproxy(splice=False)(self._directory, listen, destination)
        config = self._directory / "proxyd.toml"
        routes = "".join(
            f'[[route]]\nname = "lane{number}"\nlisten = "127.0.0.1:{port}"\n'
            f'destination = "127.0.0.1:{towards}"\n{self._route}'
            for number, (port, towards) in enumerate(self.lanes)
        )
        config.write_text(
            f'[metrics]\nlisten = "127.0.0.1:0"\n[log]\nformat = "json"\n[limits]\n{self._limits}\n{routes}'
        )
        return [str(PROXYD), "serve", "--config", str(config)]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._stopped = self._stopped or number not in {signal.SIGHUP, signal.SIGCONT, signal.SIGSTOP}

    def end(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def log(self) -> str:
        """What it said last."""
        path = self._directory / f"{self.name}.log"
        return path.read_text()[-3000:] if path.exists() else ""


class ManagedProxy(Proxy):
    """proxyd as a service of a manager that keeps its connections and starts it again: a stand-in for systemd."""

    _manager: StandIn | None = None

    async def ready(self) -> None:
        """See :class:`Proxy`."""
        if self._manager is not None and self._manager.exit_status is None:
            return
        self.end()
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        command = [sys.executable, "-m", "proxyd.cli", *self._command()[1:]]
        self._manager = StandIn(command, dict(os.environ), directory)
        self._manager.open()
        await trio.to_thread.run_sync(self._manager.wait_ready)

    async def restart(self, *, crash: bool) -> None:
        """Kill it, or ask it to end; returns when it is ready again."""
        assert self._manager is not None
        await trio.to_thread.run_sync(self._manager.crash if crash else self._manager.restart)

    def end(self) -> None:
        """See :class:`Proxy`."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    @property
    def log(self) -> str:
        """See :class:`Proxy`."""
        return "" if self._manager is None else self._manager.log.read_text()[-3000:]


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


DEFAULT = QEMU_10_0
