"""One guest: QEMU under KVM in an emulated host, running the checker or the Linux guest."""

import contextlib
import time
from dataclasses import dataclass

import trio

from tests.kvmlab.catalogue import LabError, catalogue
from tests.kvmlab.checker import Checker
from tests.kvmlab.feed import Feed, FeedEnded, first_of, read_lines, time_limit
from tests.kvmlab.host import GATEWAY, INCOMING_PORT, Host
from tests.kvmlab.linux_guest import LinuxFacts
from tests.kvmlab.linux_image import ARGUMENTS, LINUX
from tests.kvmlab.mode import Mode
from tests.kvmlab.qmp import Qmp, QmpError

START_SECONDS = 60
EXIT_MARK = "kvmlab: QEMU exited with status "
PROGRAMS = ("checker", "plain-checker", LINUX)


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """How to start QEMU. *qemu* is a series of lab.toml, *devices* one of its sets.

    *program*: ``checker``; ``plain-checker``, which leaves the PMU and the physical timer alone; or ``linux``, for
    hosts that were set up with it.
    """

    qemu: str
    vcpus: int = 1
    devices: str = "plain"
    program: str = "checker"
    cpu: str = "host"
    mode: Mode = Mode.PRECOPY

    @property
    def memory_mib(self) -> int:
        """The guest's memory."""
        return 192 if self.program == LINUX else 16

    @property
    def key(self) -> str:
        """Name the guest in a results file; not its memory, no CPU but ``host``, no mode but precopy."""
        mode = "" if self.mode is Mode.PRECOPY else f" {self.mode}"
        return f"{self.qemu} {self.vcpus} {self.devices} {self.program}{mode}"

    def command(self) -> list[str]:
        """Return QEMU's arguments on the host, without the channels to the lab."""
        known = catalogue()
        place = f"/qemu/{self.qemu}"
        return [
            *(f"{place}/lib/ld-linux-aarch64.so.1", "--library-path", f"{place}/lib", f"{place}/qemu"),
            *("-M", f"{known.qemu(self.qemu).machine},gic-version=3", "-accel", "kvm", "-cpu", self.cpu),
            *("-smp", str(self.vcpus), "-m", str(self.memory_mib), "-nodefaults", "-nographic"),
            *(ARGUMENTS if self.program == LINUX else ("-kernel", f"/lab/{self.program}")),
            *known.device_arguments(self.devices),
        ]


class Guest:
    """A running QEMU. Monitor and console connect out to the lab, so nobody has to knock until they are there."""

    def __init__(self, host: Host, spec: GuestSpec, name: str) -> None:
        self.host = host
        self.spec = spec
        self.name = name
        self.output: Feed[str] = Feed(f"{name}: QEMU")
        lines: Feed[str] = Feed(f"{name}: guest")
        self.checker: Checker | LinuxFacts = LinuxFacts(lines) if spec.program == LINUX else Checker(lines)
        self._qmp: Qmp | None = None
        self.start_seconds = 0.0

    @property
    def qmp(self) -> Qmp:
        """The monitor."""
        if self._qmp is None:
            raise AssertionError("a guest is handed out only with its monitor connected")
        return self._qmp

    async def start(self, *, incoming: bool) -> None:
        """Start QEMU and prepare it for a migration with a return path; raises LabError with what it said."""
        started = time.monotonic()
        with time_limit(START_SECONDS, f"{self.name}: start"):
            monitor, console = await self._connect(incoming=incoming)
            self._qmp = Qmp(monitor, self.name)
            self.host.nursery.start_soon(read_lines, console, self.checker.lines)
            self.host.nursery.start_soon(self._qmp.run)
            await self.qmp.execute("qmp_capabilities")
            names = ("return-path", "events", *self.spec.mode.capabilities)
            wanted = [{"capability": name, "state": True} for name in names]
            await self.qmp.execute("migrate-set-capabilities", capabilities=wanted)
            if self.spec.mode.parameters:
                await self.qmp.execute("migrate-set-parameters", **self.spec.mode.parameters)
            if incoming:
                await self.qmp.execute("migrate-incoming", uri=f"tcp:0.0.0.0:{INCOMING_PORT}")
        if not incoming:
            await self.checker.some_more(1)
        self.start_seconds = time.monotonic() - started

    async def _connect(self, *, incoming: bool) -> tuple[trio.SocketStream, trio.SocketStream]:
        """Start QEMU; return the two connections that it makes to us, or raise what it said instead."""
        accepted: dict[str, trio.SocketStream] = {}
        listeners = {name: (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] for name in ("monitor", "console")}
        channels = []
        for name, listener in listeners.items():
            port = listener.socket.getsockname()[1]
            channels += ["-chardev", f"socket,id={name},host={GATEWAY},port={port}"]
        arguments = [*self.spec.command(), *channels, "-qmp", "chardev:monitor"]
        arguments += ["-serial", "chardev:console", *(("-incoming", "defer") if incoming else ())]
        quoted = " ".join(f"'{argument}'" for argument in arguments)
        shell = await self.host.open_shell(f"{quoted}; echo '{EXIT_MARK}'$?")
        self.host.nursery.start_soon(read_lines, shell, self.output)

        async def accept_both() -> None:
            for name, listener in listeners.items():  # QEMU makes its character devices in this order
                accepted[name] = await listener.accept()

        try:
            await first_of(accept_both, self.exited)
        finally:
            for listener in listeners.values():
                await listener.aclose()
        if len(accepted) < len(listeners):
            raise LabError(f"{self.name}: QEMU ended: {'; '.join(self.output.items)}")
        return accepted["monitor"], accepted["console"]

    async def exited(self) -> int:
        """Wait for QEMU's end; return its exit status."""
        line = await self.output.first(lambda text: text.startswith(EXIT_MARK))
        return int(line.removeprefix(EXIT_MARK))

    def has_exited(self) -> bool:
        """Tell whether QEMU has ended."""
        return any(line.startswith(EXIT_MARK) for line in self.output.items)

    def complaints(self) -> list[str]:
        """What QEMU wrote to stderr, without the warnings that these hosts always cause."""
        return [
            line
            for line in self.output.items
            if not line.startswith(EXIT_MARK) and "exceeds the recommended" not in line
        ]

    def states(self) -> list[str]:
        """The states of migration that QEMU went through."""
        return [event["data"]["status"] for event in self.qmp.events.items if event["event"] == "MIGRATION"]

    async def running(self) -> bool:
        """Ask QEMU whether the guest runs."""
        status = await self.qmp.execute("query-status")
        return bool(status["status"] == "running")

    async def stop(self) -> None:
        """End QEMU and wait until it is gone, so that its port is free again."""
        with time_limit(START_SECONDS, f"{self.name}: stop"):
            with contextlib.suppress(QmpError):  # it may have gone by itself
                await self.qmp.execute("quit")
            try:
                await self.exited()
            except FeedEnded as error:
                raise LabError(f"{self.name}: its host is gone") from error


async def start_guest(host: Host, spec: GuestSpec, *, incoming: bool = False) -> Guest:
    """Start a guest on *host*, or a QEMU that waits for one; raises LabError."""
    role = "destination" if incoming else "source"
    guest = Guest(host, spec, f"{role} on {host.release}")
    await guest.start(incoming=incoming)
    return guest
