"""The demo's data is what it says it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from proxyd.demo.recording import STREAM, data, destination_host, recording

REGLISTS = Path(__file__).parents[2] / "reglists"


def test_the_stream_is_the_recorded_one() -> None:
    how = json.loads(data(f"{STREAM}.json").read_text())
    recorded = recording()
    assert hashlib.sha256(recorded.stream).hexdigest() == how["sha256"]
    assert (recorded.kernel.split("+")[0], recorded.cpu, recorded.vcpus) == ("6.12.107", "neoverse-n1", 1)
    assert how["accelerator"] == "kvm"
    assert "return-path" in how["capabilities"]


def test_the_host_is_the_one_whose_registers_were_read() -> None:
    listed = json.loads((REGLISTS / "7.3-neoverse-n1.json").read_text())
    host = destination_host()
    assert (host.kernel, host.cpu, host.origin) == (listed["kernel"], "neoverse-n1", "reglist")
    assert {f"{register:#x}" for register in host.registers} == {
        key for key in listed["regs"] if int(key, 16) >> 16 & 0xFFF not in {0x10, 0x15}
    }
    assert all(int(listed["regs"][f"{register:#x}"], 16) == value for register, value in host.registers.items())
    assert host.writable_masks == {int(key, 16): int(value, 16) for key, value in listed["writable_masks"].items()}


def test_the_guest_is_an_image_for_arm64() -> None:
    image = data("counter.elf").read_bytes()
    assert image[:6] == b"\x7fELF\x02\x01"
    assert int.from_bytes(image[18:20], "little") == 183, "EM_AARCH64"
