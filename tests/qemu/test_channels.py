"""What becomes of a migration whose connections break, and of connections that are none of its own, with real QEMUs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from proxyd.relay.preempt import AT_SETUP_S
from tests.qemu import cells
from tests.qemu.cells import Bench
from tests.qemu.daemon import Daemon, proxyd
from tests.qemu.hop import Hop, hop
from tests.qemu.machine import Machine
from tests.qemu.modes import MODES, TCP, Mode
from tests.qemu.moving import BANDWIDTH, NO_DOWNTIME, POSTCOPY_BANDWIDTH, assert_moved, assert_stayed, passes, prepare
from tests.qemu.pairs import PAIRS, Pair
from tests.qemu.versions import QEMU_11_1

pytestmark = pytest.mark.qemu

BY_NAME = {mode.name: mode for mode in MODES}
OWN_VERSIONS = [pair for pair in PAIRS if pair.name.endswith("-pmu")]

each_version = pytest.mark.parametrize("pair", OWN_VERSIONS, ids=lambda pair: pair.name)


class Scene:
    """A migration through a hop and proxyd that does not end by itself: ``slowly`` pages come."""

    def __init__(self, source: Machine, destination: Machine, port: int, daemon: Daemon, hop: Hop) -> None:
        self.source = source
        self.destination = destination
        self.port = port
        self.daemon = daemon
        self.hop = hop

    def account(self) -> str:
        return self.source.account() + self.destination.account() + self.daemon.stderr.decode()

    async def begin(self, *, pass_number: int = 2) -> None:
        """Migrate, and wait for a pass over memory."""
        limits = {"downtime-limit": NO_DOWNTIME, "max-bandwidth": BANDWIDTH}
        await self.source.qmp.execute("migrate-set-parameters", **limits)
        await self.source.qmp.execute("migrate-set-parameters", **{"max-postcopy-bandwidth": POSTCOPY_BANDWIDTH})
        await self.source.qmp.execute("migrate", uri=f"tcp:127.0.0.1:{self.hop.port}")
        await self.source.wait_until(lambda: passes(self.source) >= pass_number, f"pass {pass_number}")

    async def until(self, machine: Machine, status: str) -> None:
        """Wait for a state of the migration."""
        await machine.wait_until(lambda: status in machine.qmp.statuses(), f"{status}\n{self.account()}")


@asynccontextmanager
async def a_scene(bench: Bench, pair: Pair, mode: Mode, directory: Path) -> AsyncIterator[Scene]:
    async with cells.machines(bench, pair, mode, directory) as (source, destination):
        await prepare(destination, mode, TCP, bench.certificates, server=True)
        await prepare(source, mode, TCP, bench.certificates, server=False)
        port = await destination.incoming()
        keys = {"profile": str(pair.profile_path), **({"postcopy": cells.consent(pair)} if mode.postcopy else {})}
        async with proxyd(directory, port, **keys) as daemon, hop(daemon.port) as between:
            yield Scene(source, destination, port, daemon, between)


@each_version
async def test_a_multifd_channel_that_breaks_fails_the_migration(bench: Bench, pair: Pair, tmp_path: Path) -> None:
    async with a_scene(bench, pair, BY_NAME["multifd-2"], tmp_path) as scene:
        await scene.begin()
        scene.hop.reset(2)
        await scene.until(scene.source, "failed")
        await assert_stayed(scene.source)
        line = await scene.daemon.logged(lambda line: "outcome" in line)
        assert line["outcome"] == "source_gone", line
        # 10.0 waits for its multifd threads for ever, and 7.2 at times; without proxyd, too.
        if pair.destination is QEMU_11_1:
            assert await scene.destination.exited() == 1
        assert len([one for one in scene.daemon.log if "outcome" in one]) == 1, "one migration, one outcome"


@each_version
async def test_a_probe_from_the_sources_host_does_no_harm(bench: Bench, pair: Pair, tmp_path: Path) -> None:
    """Somebody looks whether the port is open, and takes a second over it, while a migration may become postcopy."""
    async with a_scene(bench, pair, BY_NAME["postcopy"], tmp_path) as scene:
        await scene.begin()
        await trio.sleep(AT_SETUP_S)
        probe = await trio.open_tcp_stream("127.0.0.1", scene.daemon.port)
        before = passes(scene.source)
        await trio.sleep(1)
        await probe.aclose()
        await scene.source.wait_until(lambda: passes(scene.source) > before, "another pass")
        await scene.source.qmp.execute("migrate-start-postcopy")
        await scene.until(scene.source, "completed")
        await assert_moved(scene.source, scene.destination, BY_NAME["postcopy"])


@pytest.mark.parametrize("mode", [BY_NAME["postcopy"], BY_NAME["postcopy-preempt"]], ids=lambda mode: mode.name)
@each_version
async def test_a_postcopy_that_breaks_recovers(bench: Bench, pair: Pair, mode: Mode, tmp_path: Path) -> None:
    async with a_scene(bench, pair, mode, tmp_path) as scene:
        source, destination = scene.source, scene.destination
        await scene.begin()
        await source.qmp.execute("migrate-set-parameters", **{"max-postcopy-bandwidth": 1 << 20})
        await source.qmp.execute("migrate-start-postcopy")
        await scene.until(source, "postcopy-active")
        # The guest runs at the destination. Earlier, QEMU 10.0 takes a break for a failed load.
        while not (await source.qmp.execute("query-migrate"))["ram"]["postcopy-requests"]:
            pass
        for number in range(len(scene.hop.carried)):
            scene.hop.reset(number)
        await scene.until(source, "postcopy-paused")
        await scene.until(destination, "postcopy-paused")
        await source.qmp.execute("migrate-set-parameters", **{"max-postcopy-bandwidth": 64 << 20})
        await destination.qmp.execute("migrate-recover", uri=f"tcp:127.0.0.1:{scene.port}")
        await source.qmp.execute("migrate", uri=f"tcp:127.0.0.1:{scene.hop.port}", resume=True)
        await scene.until(source, "completed")
        await assert_moved(source, destination, mode)
