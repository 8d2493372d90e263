"""Known attacks in device state, in sections described as QEMU 7.2 to 11.1 describe usb-kbd and pcie-root-port."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from formats.events import DeviceTail
from formats.parser import StreamParser
from proxyd.rewrite.known_bad import KNOWN_BAD, find_known_bad
from tests import builders as b

USB_DEVICE = {
    "vmsd_name": "USBDevice",
    "version": 1,
    "fields": [
        {"name": "addr", "type": "uint8", "size": 1},
        {"name": "state", "type": "int32", "size": 4},
        {"name": "remote_wakeup", "type": "int32", "size": 4},
        {"name": "setup_state", "type": "int32", "size": 4},
        {"name": "setup_len", "type": "int32", "size": 4},
        {"name": "setup_index", "type": "int32", "size": 4},
        {"name": "setup_buf", "array_len": 8, "type": "uint8", "size": 1},
    ],
}
AER_LOG = {
    "vmsd_name": "PCIE_AER_ERROR_LOG",
    "version": 1,
    "fields": [{"name": "log_num", "type": "uint16", "size": 2}, {"name": "log_max", "type": "uint16", "size": 2}],
}


def _struct(name: str, of: dict[str, Any], size: int) -> dict[str, Any]:
    return {"name": name, "type": "struct", "struct": of, "size": size}


def usb(setup_len: int, setup_index: int) -> b.Device:
    payload = struct.pack(">B5i8s", 1, 2, 0, 0, setup_len, setup_index, bytes(8))
    return b.Device(b"0000:00:02.0/1/usb-kbd", payload, fields=[_struct("dev", USB_DEVICE, len(payload))])


def root_port(log_num: int, log_max: int) -> b.Device:
    fields = [{"name": "version_id", "type": "int32 le", "size": 4}, _struct("exp.aer_log", AER_LOG, 4)]
    return b.Device(b"0000:00:01.0/pcie-root-port", bytes(4) + struct.pack(">HH", log_num, log_max), fields=fields)


def found_in(*devices: b.Device) -> list[str]:
    wire = b.stream(parts=[*b.devices(), *devices])
    (tail,) = [event for event in StreamParser().feed(wire) if isinstance(event, DeviceTail)]
    return list(find_known_bad(tail))


def test_honest_devices() -> None:
    assert found_in(usb(0, 0), usb(4096, 4096), usb(8, 8), root_port(0, 8), root_port(8, 8)) == []


@pytest.mark.parametrize(("length", "index"), [(4097, 0), (8, 9), (-1, 0), (8, -1), (0x7FFFFFFF, 0x7FFFFFFF)])
def test_usb_setup_packets_out_of_bounds(length: int, index: int) -> None:
    (text,) = found_in(usb(length, index))
    assert text == (
        "CVE-2013-4541 in 0000:00:02.0/1/usb-kbd/0: 0 <= setup_index <= setup_len <= 4096 expected, "
        f"found {index} and {length}"
    )


def test_more_logged_errors_than_there_is_room_for() -> None:
    (text,) = found_in(root_port(9, 8))
    assert text == (
        "CVE-2013-4529 in 0000:00:01.0/pcie-root-port/0: log_num of at most log_max expected, found 9 and 8"
    )


def test_structs_without_those_fields_are_none() -> None:
    odd = {"vmsd_name": "USBDevice", "fields": [{"name": "x", "size": 2}]}
    short = {"vmsd_name": "PCIE_AER_ERROR_LOG", "fields": [{"name": "log_num", "size": 2}]}
    assert found_in(b.Device(b"d", bytes(4), fields=[_struct("a", odd, 2), _struct("b", short, 2)])) == []


def test_early_sections_are_described_first() -> None:
    early, devices = b.Device(b"0000:00:03.0/virtio-mem-early", bytes(29)), [*b.devices(), usb(9999, 0)]
    sections = b"".join(device.wire(20 + n) for n, device in enumerate(devices))
    wire = b.MAGIC + b.configuration() + early.wire(9) + b.ram() + sections + b"\0" + b.vmdesc([early, *devices])
    (tail,) = [event for event in StreamParser().feed(wire) if isinstance(event, DeviceTail)]
    assert len(tail.early) == 1
    (text,) = find_known_bad(tail)
    assert "usb-kbd" in text


def test_each_has_a_cve() -> None:
    assert all(bad.cve.startswith("CVE-20") for bad in KNOWN_BAD)
