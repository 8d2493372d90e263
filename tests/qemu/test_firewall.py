"""The firewall with real QEMUs: what an honest one sends passes, and what kills a destination does not reach it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests import builders as b
from tests.qemu import cells
from tests.qemu.cells import Bench
from tests.qemu.daemon import proxyd
from tests.qemu.machine import Machine, machine
from tests.qemu.modes import Mode
from tests.qemu.pairs import PAIRS
from tests.qemu.versions import QEMU_10_0

pytestmark = pytest.mark.qemu

PMU = {pair.source.name: pair for pair in PAIRS if pair.name.endswith("-pmu")}
DEVICES = ("-device", "pcie-root-port,id=root", "-device", "qemu-xhci,id=usb", "-device", "usb-kbd,bus=usb.0")
SECTIONS = [
    *("ram", "cpu", "cpu_common", "timer", "globalstate", "slirp", "virt_*", "fw_cfg", "pflash_cfi01", "pl0*"),
    *("arm_gic*", "gpio-key", "PCI*", "0000:*"),
]
STRICT: dict[str, str | bool | list[str]] = {"mode": "deny", "sections": SECTIONS}


def _multifd(compression: str) -> Mode:
    parameters: dict[str, int | str] = {"multifd-channels": 2, "multifd-compression": compression}
    return Mode(f"multifd-{compression}", ("multifd",), parameters, channels=3, arguments=DEVICES)


HONEST = [
    ("7.2", _multifd("none")),
    ("7.2", _multifd("zstd")),
    ("10.0", _multifd("none")),
    ("10.0", _multifd("zlib")),
    ("11.1", _multifd("none")),
    ("11.1", _multifd("zstd")),
    ("11.1", Mode("postcopy", ("postcopy-ram",), arguments=DEVICES)),
]


@pytest.mark.parametrize(("version", "mode"), [pytest.param(*one, id=f"{one[1].name}-{one[0]}") for one in HONEST])
async def test_an_honest_migration_passes_a_strict_one(bench: Bench, version: str, mode: Mode, tmp_path: Path) -> None:
    said = await cells.through_proxyd(bench, PMU[version], mode, tmp_path, STRICT)
    assert not [line for line in said if "firewall" in line]


async def test_a_section_that_is_not_listed_is_refused_and_the_guest_goes_on(bench: Bench, tmp_path: Path) -> None:
    mode = Mode("precopy", arguments=DEVICES)
    without = STRICT | {"sections": [name for name in SECTIONS if name != "0000:*"]}
    says = "firewall: section '0000:00:"
    await cells.refused_by_proxyd(bench, PMU["10.0"], mode, tmp_path, says, dialled=True, firewall=without)


OVERFLOW = 64 << 20


@asynccontextmanager
async def a_victim(guest: Path) -> AsyncIterator[tuple[Machine, int]]:
    """A destination that waits for two channels of zstd."""
    async with machine("destination", QEMU_10_0, guest, cpu="cortex-a57", destination=True) as destination:
        capabilities = [{"capability": name, "state": True} for name in ("events", "multifd")]
        await destination.qmp.execute("migrate-set-capabilities", capabilities=capabilities)
        parameters = {"multifd-channels": 2, "multifd-compression": "zstd"}
        await destination.qmp.execute("migrate-set-parameters", **parameters)
        yield destination, await destination.incoming()


async def attack(port: int) -> None:
    """Play a source: two channels, of which one says that its one page takes 64 MiB."""
    head = b.MAGIC + b.configuration(QEMU_10_0.machine.encode()) + b.OPEN_RETURN_PATH + b.PING
    packet = b.multifd_packet(1, flags=b.MULTIFD_ZSTD, size=OVERFLOW)
    async with AsyncExitStack() as opened:
        main, *channels = [
            await opened.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(3)
        ]
        await main.send_all(head + b.start(2, b.mem_size({b"mach-virt.ram": 32 << 20}) + b.EOS))
        for number, channel in enumerate(channels):
            await channel.send_all(b.multifd_init(number=number))
        try:
            await channels[1].send_all(packet)
            for _ in range(OVERFLOW >> 16):
                await channels[1].send_all(b"A" * (1 << 16))
            await channels[1].receive_some()
        except trio.BrokenResourceError:
            pass


REFUSED_BY_QEMU = b"next_packet_size 67108864 exceeds allocated 1048576"


async def test_a_packet_that_overflows_the_buffer_of_an_older_qemu(guest: Path) -> None:
    """The control: without proxyd the packet arrives. From 10.0.13 on QEMU says so; older ones read it all."""
    async with a_victim(guest) as (destination, port):
        await attack(port)
        with trio.fail_after(60):
            await destination.process.wait()
        assert REFUSED_BY_QEMU in destination.stderr


async def test_is_not_delivered(guest: Path, tmp_path: Path) -> None:
    """The destination sees a source that has left, and ends by itself."""
    async with a_victim(guest) as (destination, port), proxyd(tmp_path, port, firewall={"mode": "deny"}) as daemon:
        await attack(daemon.port)
        line = await daemon.logged(lambda line: line.get("outcome") == "refused")
        assert f"found {OVERFLOW}: a destination would write behind its buffer" in line["message"]
        with trio.fail_after(60):
            await destination.process.wait()
        assert REFUSED_BY_QEMU not in destination.stderr
