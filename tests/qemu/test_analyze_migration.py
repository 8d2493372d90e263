"""QEMU's own scripts/analyze-migration.py as an oracle: it agrees with inspect, and it reads what rewrite writes.

The script is taken from Debian's QEMU source package, by the hash that the signed index names.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import recorded
from tests.debian import fetch_source_file

pytestmark = pytest.mark.qemu

PROXYD = Path(sys.executable).with_name("proxyd")

PAGE_BITS = b"\x05\x1econfiguration/target-page-bits" + struct.pack(">II", 1, 12)

REWRITTEN = [
    ("6.12-10.0.13-neoverse-n1-full-smp2", "7.3", "neoverse-n1"),
    ("6.12-10.0.13-neoverse-v1-plain-smp4", "6.18", "neoverse-v1"),
    ("6.12-11.1.3-neoverse-v1-full-smp2", "7.3", "neoverse-v1"),
    ("6.1-10.0.13-max-plain-smp1", "7.3", "max"),
    ("6.12-10.0.13-neoverse-n1-returnpath-smp2", "7.3", "neoverse-n1"),
]


@cache
def script() -> Path:
    return fetch_source_file(["trixie-backports", "trixie", "bookworm"], "qemu", "scripts/analyze-migration.py")


def readable(stream: bytes) -> bytes:
    """Return *stream* without what the script trips over; it was written for files, and for QEMU 8.2 and newer.

    It knows no command but SWITCHOVER_START, wants the configuration's subsection described in the vmdesc, and
    takes a "{" among the bytes of the vmdesc's length for the beginning of the JSON.
    """
    start = 8 + 1 + 4 + int.from_bytes(stream[9:13], "big")  # header, type, length, name of the machine type
    assert stream[start:].startswith(PAGE_BITS)
    prologue_end = start + len(PAGE_BITS)
    commands_end = prologue_end
    while stream[commands_end] == 8:  # QEMU_VM_COMMAND: be16 command, be16 length, data
        commands_end += 5 + int.from_bytes(stream[commands_end + 3 : commands_end + 5], "big")
    json_start = stream.rindex(b"\0\x06", 0, stream.rindex(b'"page_size"')) + 6
    vmdesc = stream[json_start:]
    assert int.from_bytes(stream[json_start - 4 : json_start], "big") == len(vmdesc)
    if b'"configuration"' not in vmdesc:
        prologue_end = start
    while b"{" in len(vmdesc).to_bytes(4, "big"):
        vmdesc += b" "
    return stream[:prologue_end] + stream[commands_end : json_start - 4] + len(vmdesc).to_bytes(4, "big") + vmdesc


def analyzed(stream: Path) -> dict[str, Any]:
    copy = stream.with_suffix(".readable")
    copy.write_bytes(readable(stream.read_bytes()))
    command = [sys.executable, str(script()), "-f", str(copy), "-d", "state"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    return found


def inspected(stream: Path) -> dict[str, Any]:
    command = [str(PROXYD), "inspect", "--json", "--registers", str(stream)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    return found


def unpacked(name: str, directory: Path) -> Path:
    path = directory / f"{name}.bin"
    path.write_bytes(recorded.load(name))
    return path


def cpregs(section: dict[str, Any]) -> dict[int, int]:
    pairs = zip(section["cpreg_vmstate_indexes"], section["cpreg_vmstate_values"], strict=True)
    found = {int(register, 16): int(value, 16) for register, value in pairs}
    assert len(found) == int(section["cpreg_vmstate_array_len"], 16)
    return found


def assert_agree(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    ram, *devices = theirs
    assert ram.startswith("ram (")
    sizes = {name: int(size, 16) for name, size in theirs[ram]["section sizes"].items()}
    assert {block["name"]: block["size"] for block in ours["ram_blocks"]} == sizes
    assert [f"{section['idstr']} ({section['section_id']})" for section in ours["device_sections"]] == devices
    lists = [cpregs(theirs[name]) for name in devices if name.startswith("cpu (")]
    assert lists
    assert [
        {int(register["id"], 16): int(register["value"], 16) for register in vcpu["registers"]}
        for vcpu in ours["vcpus"]
    ] == lists


@pytest.mark.parametrize("name", recorded.names())
def test_agrees_with_inspect(name: str, tmp_path: Path) -> None:
    stream = unpacked(name, tmp_path)
    assert_agree(analyzed(stream), inspected(stream))


@pytest.mark.parametrize(("name", "kernel", "cpu"), REWRITTEN)
def test_reads_what_rewrite_writes(name: str, kernel: str, cpu: str, tmp_path: Path) -> None:
    stream, host, out = unpacked(name, tmp_path), tmp_path / "host.json", tmp_path / "out.bin"
    host.write_bytes(recorded.host_json(kernel, cpu))
    command = [str(PROXYD), "rewrite", "--destination", str(host), str(stream), str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    before, after = analyzed(stream), analyzed(out)
    assert_agree(after, inspected(out))
    assert list(after) == list(before)
    changed = {section for section in after if after[section] != before[section]}
    assert {section.partition(" ")[0] for section in changed} == {"cpu"}
    for section in changed:
        rest = {key for key in after[section] if after[section][key] != before[section][key]}
        assert rest <= {"cpreg_vmstate_array_len", "cpreg_vmstate_indexes", "cpreg_vmstate_values"}
