"""Guests saved by real QEMUs into files, rewritten by ``proxyd rewrite``, and started from them by others.

Every pair is one that does not load without: the same file, not rewritten, is the control.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.qemu.counting import findings
from tests.qemu.machine import Machine, machine
from tests.qemu.pairs import PAIRS, Pair

pytestmark = pytest.mark.qemu

PROXYD = Path(sys.executable).with_name("proxyd")
XML = b"<domain type='qemu'><name>counting</name></domain>\n\0"
LIBVIRT_HEAD = b"LibvirtQemudSave" + struct.pack("=5I56x", 2, len(XML) + (64 << 10), 1, 0, 0) + XML + bytes(64 << 10)

FILES = [pair for pair in PAIRS if pair.name in {"10.0-pmu", "10.0-sve", "11.1-pmu"}]
"""Pairs whose QEMUs have ``file:`` and mapped-ram; the list becomes shorter or longer, and changes in what it holds."""

each_pair = pytest.mark.parametrize("pair", FILES, ids=lambda pair: pair.name)


async def capabilities(one: Machine, *names: str) -> None:
    chosen = [{"capability": name, "state": True} for name in ("events", *names)]
    await one.qmp.execute("migrate-set-capabilities", capabilities=chosen)


async def save(pair: Pair, guest: Path, uri: str, *names: str) -> bytes:
    """Let the source count, save it to ``uri``; return what it had printed."""
    async with machine("source", pair.source, guest, cpu=pair.source_cpu, machine_type=pair.machine) as source:
        await source.ticks(5)
        await capabilities(source, *names)
        await source.qmp.execute("migrate", uri=uri)
        assert await source.migration_end() == "completed", source.account()
        return bytes(source.serial)


async def refused(pair: Pair, guest: Path, uri: str, *names: str) -> None:
    """The control: the destination does not take the file as it is."""
    async with machine(
        "control", pair.destination, guest, cpu=pair.destination_cpu, machine_type=pair.machine, destination=True
    ) as control:
        await capabilities(control, *names)
        await control.qmp.execute("migrate-incoming", uri=uri)
        assert await control.exited() == 1
        assert re.search(pair.direct_error, control.stderr.decode()), control.account()


async def goes_on(pair: Pair, guest: Path, before: bytes, uri: str, *names: str) -> None:
    """The destination takes the rewritten file, and the guest counts on where it stood."""
    async with machine(
        "destination", pair.destination, guest, cpu=pair.destination_cpu, machine_type=pair.machine, destination=True
    ) as destination:
        await capabilities(destination, *names)
        await destination.qmp.execute("migrate-incoming", uri=uri)
        assert await destination.migration_end() == "completed", destination.account()
        if not await destination.running():
            await destination.qmp.execute("cont")
        await destination.ticks(5)
        assert findings(before, destination.serial)


def rewrite(pair: Pair, *arguments: object) -> dict[str, object]:
    command = [str(PROXYD), "rewrite", "--profile", str(pair.profile_path), "--json", *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr.decode()
    document: dict[str, object] = json.loads(ran.stderr)
    return document


@each_pair
async def test_a_file_of_migrate_file(pair: Pair, guest: Path, tmp_path: Path) -> None:
    saved, out = tmp_path / "saved", tmp_path / "out"
    before = await save(pair, guest, f"file:{saved}")
    await refused(pair, guest, f"file:{saved}")
    document = rewrite(pair, saved, out)
    assert (document["result"], document["container"]) == ("rewritten", "stream")
    await goes_on(pair, guest, before, f"file:{out}")


@each_pair
async def test_a_mapped_ram_file(pair: Pair, guest: Path, tmp_path: Path) -> None:
    saved, out = tmp_path / "saved", tmp_path / "out"
    before = await save(pair, guest, f"file:{saved}", "mapped-ram")
    await refused(pair, guest, f"file:{saved}", "mapped-ram")
    document = rewrite(pair, saved, out)
    assert (document["result"], document["container"]) == ("rewritten", "stream, mapped-ram")
    assert out.stat().st_size != saved.stat().st_size, "the list's length was to change"
    assert out.stat().st_blocks <= saved.stat().st_blocks + 64, "holes were to stay holes"
    await goes_on(pair, guest, before, f"file:{out}", "mapped-ram")


async def test_a_mapped_ram_file_behind_a_head_as_libvirt_writes_sparse(guest: Path, tmp_path: Path) -> None:
    pair = FILES[0]
    saved = tmp_path / "counting.save"
    head = LIBVIRT_HEAD[:28] + struct.pack("=I", 6) + LIBVIRT_HEAD[32:]
    saved.write_bytes(head)
    offset = len(head)
    before = await save(pair, guest, f"file:{saved},offset={offset}", "mapped-ram")
    await refused(pair, guest, f"file:{saved},offset={offset}", "mapped-ram")
    document = rewrite(pair, "--in-place", saved)
    assert (document["result"], document["container"]) == ("rewritten", "libvirt save image, sparse, mapped-ram")
    assert saved.read_bytes()[:offset] == head
    await goes_on(pair, guest, before, f"file:{saved},offset={offset}", "mapped-ram")


async def test_a_mapped_ram_file_of_multifd(guest: Path, tmp_path: Path) -> None:
    pair = FILES[0]
    saved, out = tmp_path / "saved", tmp_path / "out"
    before = await save(pair, guest, f"file:{saved}", "mapped-ram", "multifd")
    rewrite(pair, saved, out)
    await goes_on(pair, guest, before, f"file:{out}", "mapped-ram", "multifd")


async def test_proxyd_in_the_pipe_of_incoming_exec(guest: Path, tmp_path: Path) -> None:
    (pair,) = (one for one in PAIRS if one.name == "7.2-pmu")
    saved = tmp_path / "saved"
    before = await save(pair, guest, f"exec:cat > {saved}")
    await refused(pair, guest, f"exec:cat {saved}")
    await goes_on(pair, guest, before, f"exec:{PROXYD} rewrite --profile {pair.profile_path} {saved} - 2>/dev/null")


@each_pair
async def test_an_image_packed_by_exec(pair: Pair, guest: Path, tmp_path: Path) -> None:
    """As libvirt does it: a head, and behind it what the compressor makes of the stream."""
    saved, out = tmp_path / "counting.save", tmp_path / "out.save"
    saved.write_bytes(LIBVIRT_HEAD[:28] + struct.pack("=I", 5) + LIBVIRT_HEAD[32:])
    before = await save(pair, guest, f"exec:zstd -c >> {saved}")
    document = rewrite(pair, saved, out)
    assert (document["result"], document["container"]) == ("rewritten", "libvirt save image, zstd")
    await goes_on(pair, guest, before, f"exec:tail -c +{len(LIBVIRT_HEAD) + 1} {out} | zstd -dc")
