"""One host of a matrix with what it keeps between cells: its description, a proxyd that leads to it, its guests' lists.

A station is taken for one cell at a time, so that what its proxyd logs meanwhile is about that cell.
"""

import tempfile
from pathlib import Path
from typing import Any

import trio

from formats.events import DeviceTail
from formats.parser import StreamParser
from proxyd.rewrite.policy import StreamLimits
from proxyd.rewrite.tail import registers_of
from tests.kvmlab.catalogue import LabError
from tests.kvmlab.feed import time_limit
from tests.kvmlab.guest import GuestSpec, start_guest
from tests.kvmlab.host import GATEWAY, Host, HostSpec
from tests.kvmlab.hostdesc import host_description, read_register_list
from tests.kvmlab.lab import Lab
from tests.kvmlab.migration import MIGRATION_SECONDS
from tests.kvmlab.proxy import Proxy, proxyd

Vcpus = list[dict[str, str]]
"""For each vCPU, in the order of the stream: register id -> value, both in hex."""


class Station:
    """A host that is up. Made by `keep_station`."""

    def __init__(self, host: Host, listed: dict[str, Any], nursery: trio.Nursery, directory: Path) -> None:
        self.host = host
        self.listed = listed
        self.leave = trio.Event()
        self.gone = trio.Event()
        self._nursery = nursery
        self._directory = directory
        self._proxies: dict[tuple[str, tuple[str, ...]], Proxy] = {}

    def description(self, qemu: str) -> bytes:
        """Describe the host, for guests of QEMU *qemu*."""
        return host_description(self.listed, qemu)

    async def proxy(self, qemu: str, allow: tuple[str, ...] = ()) -> Proxy:
        """Return the proxyd that leads to this host, where QEMU *qemu* loads the guest, with this allow list."""
        key = (qemu, allow)
        if key not in self._proxies:
            self._proxies[key] = await self._nursery.start(self._serve, qemu, allow)
        return self._proxies[key]

    async def _serve(self, qemu: str, allow: tuple[str, ...], task_status: trio.TaskStatus[Proxy]) -> None:
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        async with proxyd(directory, self.host.incoming_port, self.description(qemu), allow) as proxy:
            task_status.started(proxy)
            await self.leave.wait()


async def keep_station(lab: Lab, spec: HostSpec, directory: Path, task_status: trio.TaskStatus[Station]) -> None:
    """Boot a host, ask it for its register list, and keep it and its proxies until the station is to leave.

    What goes wrong at the end is told, and does not stop the matrix: a proxyd that ended in the wrong way, say.
    """
    host = await lab.boot(spec)
    station = None
    try:
        listed = await read_register_list(host)
        async with trio.open_nursery() as nursery:
            station = Station(host, listed, nursery, directory)
            task_status.started(station)
            await station.leave.wait()
    except* LabError as group:
        if station is None:
            raise
        lab.progress(f"station {spec.kernel} on {spec.cpu}: {group.exceptions}")
    finally:
        await host.stop()
        if station is not None:
            station.gone.set()


async def read_stream(host: Host, spec: GuestSpec) -> tuple[str, Vcpus]:
    """Start a guest and save it without a destination; return QEMU's version and the lists that its stream carries.

    Without a return path the source waits for nobody's answer. Raises LabError.
    """
    guest = await start_guest(host, spec)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    stream = bytearray()
    with time_limit(MIGRATION_SECONDS, f"{guest.name}: save"):
        async with listener:
            off = [{"capability": "return-path", "state": False}]
            await guest.qmp.execute("migrate-set-capabilities", capabilities=off)
            await guest.qmp.execute("migrate", uri=f"tcp:{GATEWAY}:{listener.socket.getsockname()[1]}")
            async with await listener.accept() as source:
                async for chunk in source:
                    stream += chunk
    version = (await guest.qmp.execute("query-version"))["qemu"]
    await guest.stop()
    tails = [event for event in StreamParser().feed(bytes(stream)) if isinstance(event, DeviceTail)]
    if len(tails) != 1:
        raise LabError(f"{guest.name}: its stream of {len(stream)} bytes has no end")
    return f"{version['major']}.{version['minor']}.{version['micro']}", [
        {f"{register:#x}": f"{value:#x}" for register, value in vcpu.registers.items()}
        for vcpu in registers_of(tails[0], StreamLimits())
    ]
