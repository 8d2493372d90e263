"""One emulated arm64 host that has real KVM."""

import os
import re
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.kvmlab.catalogue import LabError
from tests.kvmlab.feed import Feed, FeedEnded, read_lines, time_limit
from tests.kvmlab.process import Process
from tests.kvmlab.qmp import Qmp

BOOT_SECONDS = 120
SHELL_PORT = 23
INCOMING_PORT = 4445
SERVICE_PORT = 4446
"""For whatever a test lets listen there."""
GATEWAY = "10.0.2.2"
"""This machine's 127.0.0.1, as the hosts see it (QEMU's user network)."""


@dataclass(frozen=True, slots=True)
class HostSpec:
    """What to boot: a kernel of lab.toml on one of QEMU's CPUs."""

    kernel: str
    cpu: str
    memory_mib: int = 1024


class Host:
    """A host. Its shell, its port for incoming migrations and one for a test's service are reachable on 127.0.0.1,
    nothing else is."""

    def __init__(self, spec: HostSpec, release: str, nursery: trio.Nursery) -> None:
        self.spec = spec
        self.release = release
        self.nursery = nursery
        self.console: Feed[str] = Feed(f"host {release}: console")
        self.process: Process | None = None
        self.boot_seconds = 0.0
        self.incoming_port = 0
        self.service_port = 0
        self._shell_port = 0

    async def boot(self, command: Sequence[str], image: Path, initramfs: Sequence[bytes]) -> None:
        """Start the emulator and wait until init says that the host is ready; raises LabError.

        *initramfs*: archives, which the kernel unpacks one after the other.
        """
        started = time.monotonic()
        monitor, monitor_end = socket.socketpair()
        console, console_end = socket.socketpair()
        # In memory, not in a file: nothing is left behind even when this process is killed.
        with monitor_end, console_end, os.fdopen(os.memfd_create("initramfs"), "wb") as archive:
            archive.writelines(initramfs)
            archive.flush()
            forwards = (f"hostfwd=tcp:127.0.0.1:0-:{port}" for port in (SHELL_PORT, INCOMING_PORT, SERVICE_PORT))
            self.process = Process(
                [
                    *command,
                    *("-M", "virt,virtualization=on,gic-version=3", "-cpu", self.spec.cpu),
                    *("-accel", "tcg,thread=multi,tb-size=512", "-m", str(self.spec.memory_mib)),
                    *("-nodefaults", "-nographic", "-no-reboot"),
                    *("-kernel", str(image), "-initrd", f"/dev/fd/{archive.fileno()}"),
                    *("-append", "console=ttyAMA0 panic=-1"),  # a panic ends the emulator, and so the boot
                    *("-netdev", f"user,id=net,{','.join(forwards)}"),
                    *("-device", "virtio-net-pci,netdev=net,romfile="),
                    *("-chardev", f"socket,id=console,fd={console_end.fileno()}", "-serial", "chardev:console"),
                    *("-chardev", f"socket,id=monitor,fd={monitor_end.fileno()}"),
                    *("-qmp", "chardev:monitor"),
                ],
                pass_fds=(monitor_end.fileno(), console_end.fileno(), archive.fileno()),
                output=console_end.fileno(),  # what QEMU itself complains about comes between the kernel's lines
            )
        self.nursery.start_soon(read_lines, _stream(console), self.console)
        qmp = Qmp(_stream(monitor), f"host {self.release}")
        self.nursery.start_soon(qmp.run)
        with time_limit(BOOT_SECONDS, f"host {self.release}: boot"):
            line = await self.console.first(lambda text: text.startswith("kvmlab: "))
            if "ready" not in line:
                raise LabError(f"host {self.release}: {line}")
            await qmp.execute("qmp_capabilities")
            table = await qmp.execute("human-monitor-command", command_line="info usernet")
        self.boot_seconds = time.monotonic() - started
        self._shell_port = _forwarded(table, SHELL_PORT)
        self.incoming_port = _forwarded(table, INCOMING_PORT)
        self.service_port = _forwarded(table, SERVICE_PORT)

    async def open_shell(self, script: str) -> trio.SocketStream:
        """Run *script* on the host; the stream that is returned brings its output and ends with it."""
        stream = await trio.open_tcp_stream("127.0.0.1", self._shell_port)
        await stream.send_all(f"{{ {script}\n}} </dev/null 2>&1; exit\n".encode())
        return stream

    async def run(self, script: str, seconds: float = 60) -> str:
        """Run *script* on the host and return what it printed; raises LabError unless its status is 0."""
        mark = secrets.token_hex(8)
        with time_limit(seconds, f"host {self.release}: {script}"):
            async with await self.open_shell(f"({script}\n); echo {mark} $?") as stream:
                output = b"".join([chunk async for chunk in stream]).decode(errors="replace")
        text, _, status = output.rpartition(mark)
        if status.strip() != "0":
            raise LabError(f"host {self.release}: {script}: status {status.strip()}: {text.strip()}")
        return text

    async def stop(self) -> None:
        """End the host and everything in it."""
        if self.process:
            await self.process.stop()

    async def stopped(self) -> None:
        """Wait until the emulator has ended by itself."""
        try:
            await self.console.first(lambda _: False)
        except FeedEnded:
            return


def _stream(end: socket.socket) -> trio.SocketStream:
    """Our end of a socket pair as a trio stream."""
    return trio.SocketStream(trio.socket.from_stdlib_socket(end))


def _forwarded(table: str, port: int) -> int:
    """Return the port on this machine that QEMU bound for the host's *port*: it was asked for any free one."""
    match = re.search(rf"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+{port}\s", table)
    if match is None:
        raise LabError(f"QEMU forwards nothing to port {port}: {table}")
    return int(match[1])
