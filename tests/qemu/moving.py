"""Moving the guest that watches its RAM, in a given mode, and judging what became of it.

The guest dirties its memory faster than it is sent, so a migration would never end by itself: the source is kept at it
for some passes (precopy) and then allowed any downtime, or switched to postcopy. So each move sends pages twice, and
stops a guest that is writing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.qemu.counting import findings
from tests.qemu.machine import Machine
from tests.qemu.modes import Leg, Mode

PASSES = 3
"""Passes over RAM before the guest is stopped: pages that changed were sent again, and again."""

BANDWIDTH = 40 << 20
"""Bytes per second. The first pass must take longer than 100 ms: only then QEMU knows the bandwidth, and as long as it
does not, it stops the guest after that pass."""

NO_DOWNTIME = 1
"""Milliseconds. Less than the pages take that the guest has dirtied since the last pass."""

ANY_DOWNTIME = 60_000

POSTCOPY_BANDWIDTH = 8 << 20
"""Bytes per second in the background, so that the guest at the destination must ask for most of its pages."""


async def prepare(machine: Machine, mode: Mode, leg: Leg, certificates: Path, *, server: bool) -> None:
    """Set *mode* on one end; its connections go over *leg*, on which it is the TLS *server* or the client."""
    names = ("events", "return-path", *mode.capabilities, *(() if server else mode.source_capabilities))
    await machine.qmp.execute(
        "migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names]
    )
    parameters: dict[str, object] = dict(mode.parameters)
    if leg.tls:
        await machine.qmp.execute(
            "object-add",
            **{"qom-type": "tls-creds-x509", "id": "tls0", "dir": str(certificates), "verify-peer": True},
            endpoint="server" if server else "client",
        )
        # Over a UNIX socket there is no host that the certificate could be compared with.
        parameters |= {"tls-creds": "tls0", "tls-hostname": "localhost"}
    await machine.qmp.execute("migrate-set-parameters", **parameters)


async def listening(destination: Machine, leg: Leg, path: Path) -> str:
    """Let *destination* wait for a migration over *leg* (UNIX: a socket at *path*); return the URI that reaches it."""
    if leg.unix:
        await destination.qmp.execute("migrate-incoming", uri=f"unix:{path}")
        return f"unix:{path}"
    return f"tcp:127.0.0.1:{await destination.incoming()}"


async def migrate(source: Machine, mode: Mode, uri: str) -> str:
    """Migrate to *uri*; return how it ended, as the source says: ``completed``, ``failed`` or ``postcopy-paused``."""
    limits = {"downtime-limit": NO_DOWNTIME, "max-bandwidth": BANDWIDTH, "max-postcopy-bandwidth": POSTCOPY_BANDWIDTH}
    await source.qmp.execute("migrate-set-parameters", **limits)
    await source.qmp.execute("migrate", uri=uri)
    ends = {"completed", "failed", "postcopy-paused"}

    def ended() -> bool:
        return bool(ends & set(source.qmp.statuses()))

    await source.wait_until(lambda: ended() or passes(source) >= PASSES, f"pass {PASSES} of the migration")
    if not ended():
        if mode.postcopy:
            await source.qmp.execute("migrate-start-postcopy")
        else:
            await source.qmp.execute("migrate-set-parameters", **{"downtime-limit": ANY_DOWNTIME})
    if "pause-before-switchover" in mode.source_capabilities:
        await source.wait_until(lambda: "pre-switchover" in source.qmp.statuses(), "pause before the switchover")
        assert not await source.running()
        await source.qmp.execute("migrate-continue", state="pre-switchover")
    await source.wait_until(ended, "end of the migration")
    return source.qmp.statuses()[-1]


def passes(source: Machine) -> int:
    """Return how often *source* has begun to go through its memory."""
    events = [event["data"]["pass"] for event in source.qmp.events if event["event"] == "MIGRATION_PASS"]
    return int(events[-1]) if events else 0


async def assert_moved(source: Machine, destination: Machine, mode: Mode) -> None:
    """The guest goes on at the destination with all its memory, it stopped at the source, and the mode was used."""
    await destination.wait_until(lambda: "completed" in destination.qmp.statuses(), "end of the load")
    await destination.ticks(10)
    assert await destination.running()
    assert not await source.running()
    said = findings(source.serial, destination.serial)
    assert set(said) == {"ok"}, said
    if "dirty-bitmaps" in mode.capabilities:
        assert await bitmap_count(destination) == DIRTY
    assert_used(mode, source, await source.qmp.execute("query-migrate"))


def assert_used(mode: Mode, source: Machine, info: Mapping[str, Any]) -> None:
    """The migration that *info* tells of made use of what *mode* switched on."""
    ram = info["ram"]
    if "x-ignore-shared" in mode.capabilities:
        assert ram["normal"] < 256, info  # of RAM none; there is the ROM
        return
    assert ram["dirty-sync-count"] >= PASSES, info
    if "multifd" in mode.capabilities:
        assert ram["multifd-bytes"] > 1 << 20, info
    if "xbzrle" in mode.capabilities:
        assert info["xbzrle-cache"]["pages"] > 0, info
    if "compress" in mode.capabilities:
        assert info["compression"]["pages"] > 0, info
    if mode.postcopy:
        assert "postcopy-active" in source.qmp.statuses()
        assert ram["postcopy-requests"] > 0, info
    assert ram["duplicate"] > 0 or "multifd" in mode.capabilities, info


async def assert_stayed(source: Machine) -> None:
    """The guest goes on at the source with all its memory."""
    await source.ticks(10)
    assert await source.running()
    said = findings(source.serial)
    assert set(said) == {"ok"}, said


DIRTY = 3 << 20
"""Bytes of the disk that its bitmap holds dirty."""


async def make_bitmap(source: Machine) -> None:
    """Let a bitmap of the disk say that :data:`DIRTY` bytes were written."""
    await source.qmp.execute("block-dirty-bitmap-add", node="disk0", name="changes", granularity=65536)
    command = f'qemu-io disk0 "write {64 << 20} {DIRTY}"'
    assert "error" not in await source.qmp.execute("human-monitor-command", **{"command-line": command})
    assert await bitmap_count(source) == DIRTY


async def bitmap_count(machine: Machine) -> int:
    """Return the bytes that the disk's bitmap holds dirty."""
    (node,) = await machine.qmp.execute("query-named-block-nodes")
    (bitmap,) = node["dirty-bitmaps"]
    return int(bitmap["count"])
