"""Transparent use: a source that knows nothing of proxyd is redirected to it by the destination host's packet filter.

The rules and the routes are those of docs/operations.md.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.qemu import counting
from tests.qemu.counting import findings
from tests.qemu.daemon import PROXYD, Daemon, _ready
from tests.qemu.machine import SECONDS, Machine, machine
from tests.qemu.pairs import PAIRS
from tests.transparent.namespaces import DESTINATION, NETWORKS, SOURCE, Host, place, two_hosts

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"

# A move that fails without proxyd.
PAIR = next(pair for pair in PAIRS if pair.name == "10.0-pmu")

both_families = pytest.mark.parametrize("version", [4, 6])


def from_page(name: str) -> str:
    """The block of the manual under the marker of this name."""
    found = re.search(rf"^<!-- recipe: {name} -->\n```[a-z]*\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def uri(version: int, address: str) -> str:
    return f"tcp:[{address}]:49152" if version == 6 else f"tcp:{address}:49152"


def named(version: int, port: int) -> str:
    return uri(version, DESTINATION[version]).removeprefix("tcp:").replace("49152", str(port))


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as (source, destination):
        destination.run("nft", "--file", "-", stdin=from_page("transparent rules"))
        yield source, destination


@asynccontextmanager
async def proxyd(host: Host, directory: Path) -> AsyncIterator[Daemon]:
    """Run ``proxyd serve`` on *host* with the manual's routes."""
    routes, replaced = re.subn(
        r"^destination_host = .*$",
        f"profile = {json.dumps(str(PAIR.profile_path))}",
        from_page("transparent routes"),
        flags=re.MULTILINE,
    )
    assert replaced == 2
    config = directory / "proxyd.toml"
    config.write_text(f'[metrics]\nlisten = "127.0.0.1:0"\n[log]\nformat = "json"\n{routes}')
    # A socket with a name in the file system: the abstract ones belong to a network namespace.
    with (
        tempfile.TemporaryDirectory() as short,
        trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM) as manager,
    ):
        await manager.bind(f"{short}/notify")
        process = await trio.lowlevel.open_process(
            host.command(str(PROXYD), "serve", "--config", str(config)),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "NOTIFY_SOCKET": f"{short}/notify"},
        )
        daemon = Daemon(process, 5000)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon._read_stderr)
                await _ready(manager, daemon)
                yield daemon
                process.send_signal(signal.SIGTERM)
                with trio.fail_after(SECONDS):
                    await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
                assert process.stderr is not None
                await process.stderr.aclose()


async def migrate(source: Machine, version: int) -> str:
    """Migrate to the destination host, of which alone the source has ever heard."""
    source.qmp.events.clear()
    await source.qmp.execute("migrate", uri=uri(version, DESTINATION[version]))
    return await source.migration_end()


@pytest.mark.qemu
@pytest.mark.parametrize(("version", "also"), [(4, ()), (6, ()), (6, ("multifd",))])
async def test_a_guest_migrates_to_the_destination_and_never_hears_of_proxyd(
    version: int, also: tuple[str, ...], hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    guest = counting.build("counter", tmp_path)
    here, there = (place(qemu, host) for qemu, host in zip((PAIR.source, PAIR.destination), hosts, strict=True))
    async with (
        machine("source", here, guest, cpu=PAIR.source_cpu, machine_type=PAIR.machine) as source,
        machine(
            "destination", there, guest, cpu=PAIR.destination_cpu, machine_type=PAIR.machine, destination=True
        ) as destination,
    ):
        await source.ticks(5)
        capabilities = [{"capability": name, "state": True} for name in ("events", "return-path", *also)]
        for qemu in (source, destination):
            await qemu.qmp.execute("migrate-set-capabilities", capabilities=capabilities)
        # As libvirt starts it: on every address, on a port of its range.
        await destination.qmp.execute("migrate-incoming", uri=uri(version, {4: "0.0.0.0", 6: "::"}[version]))

        # The rules without proxyd: nothing gets past it, and the guest stays.
        assert await migrate(source, version) == "failed"
        await source.ticks(5)

        async with proxyd(hosts[1], tmp_path) as daemon:
            assert await migrate(source, version) == "completed", source.account() + daemon.stderr.decode()
            await destination.ticks(5)
            assert await destination.running()
            ending = await daemon.logged(lambda line: line.get("outcome") == "completed")
            begun = next(line for line in daemon.log if line.get("migration") == ending["migration"])
        assert begun["destination"] == named(version, 49152)
        assert begun["source"].startswith(f"[{SOURCE[6]}]:" if version == 6 else f"{SOURCE[4]}:")
        assert set(findings(source.serial)) == {"ok"}
        findings(source.serial, destination.serial)  # not one tick is missing


@both_families
async def test_who_connects_to_proxyd_itself_is_refused(version: int, hosts: tuple[Host, Host], tmp_path: Path) -> None:
    source, destination = hosts
    async with proxyd(destination, tmp_path) as daemon:
        asking = (
            f"import socket\nwith socket.create_connection(({DESTINATION[version]!r}, 5000)) as connection:\n"
            "    try:\n        print(connection.recv(1))\n    except ConnectionResetError:\n        print('reset')\n"
        )
        assert await trio.to_thread.run_sync(lambda: source.run(sys.executable, "-c", asking)) == "reset\n"
        line = await daemon.logged(lambda line: line.get("outcome") == "destination_unreachable")
    assert line["message"] == (
        "destination_unreachable: expected a connection that the packet filter has redirected "
        f'(destination = "original"), found one that was made to {named(version, 5000)} itself'
    )


# As a socket unit with BindIPv6Only=both has it.
ON_BOTH = """
import socket
from dataclasses import replace
from proxyd.endpoint import OriginalDestination
from proxyd.relay.channel import SocketLeg
from proxyd.relay.destination import destination_of
from tests.proxyd.relay.stage import a_route
with socket.create_server(("::", 5000), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    print("listening", flush=True)
    leg = SocketLeg(listener.accept()[0])
print(destination_of(replace(a_route(), destination=OriginalDestination()), leg), flush=True)
leg.close()
"""


@both_families
async def test_a_socket_for_both_families(version: int, hosts: tuple[Host, Host]) -> None:
    source, destination = hosts
    dialling = f"import socket\nsocket.create_connection(({DESTINATION[version]!r}, 49215)).recv(1)\n"
    with subprocess.Popen(
        destination.command(sys.executable, "-c", ON_BOTH), stdout=subprocess.PIPE, text=True, cwd=PAGE.parents[1]
    ) as asked:
        assert asked.stdout is not None
        assert asked.stdout.readline() == "listening\n"
        await trio.to_thread.run_sync(lambda: source.run(sys.executable, "-c", dialling))
        assert asked.stdout.read() == f"{named(version, 49215)}\n"


@both_families
async def test_other_ports_of_the_host_are_left_alone(version: int, hosts: tuple[Host, Host]) -> None:
    source, destination = hosts
    asking = (
        f"import socket\ntry:\n    socket.create_connection(({DESTINATION[version]!r}, 49216))\n"
        "except ConnectionRefusedError:\n    print('refused')\n"
    )
    assert await trio.to_thread.run_sync(lambda: source.run(sys.executable, "-c", asking)) == "refused\n"
    assert "redirect" in destination.run("nft", "list", "ruleset")
    destination.run("sh", "-c", from_page("transparent off"))
    assert "redirect" not in destination.run("nft", "list", "ruleset")


def test_the_manual_says_which_sources_may_come() -> None:
    assert all(f'["{network}"]' in from_page("transparent routes") for network in NETWORKS.values())
