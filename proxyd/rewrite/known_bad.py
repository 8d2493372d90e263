"""Values of device state with which a hostile source has attacked a destination before, by the names of their CVEs.

Each was mended in QEMU long ago, and a QEMU that is mended refuses such a stream by itself: what is told here is that
somebody tries. The vmdesc says where the values are, so a postcopy package, which has none, is not looked at.

Beyond these, every stream is held to the bounds of its own format, firewall or not: the length of a register list
(CVE-2013-4531), records of memory, names, numbers of sections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from formats.described_fields import DescribedStruct, described_structs
from formats.events import DeviceTail
from formats.framing import VMDESC_HEADER_BYTES

# USBDevice.data_buf (include/hw/usb.h), 4 KiB in every QEMU since 0.13.
_USB_DATA_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class KnownBad:
    """One way to attack. ``struct`` is the VMStateDescription; ``judge`` says what is wrong with an instance of it."""

    cve: str
    struct: str
    judge: Callable[[DescribedStruct, memoryview], str | None]


def _usb_setup(found: DescribedStruct, payload: memoryview) -> str | None:
    """``hw/usb/bus.c: usb_device_post_load``: both are used as size of and offset into ``data_buf``."""
    length = found.integer(payload, "setup_len", signed=True)
    index = found.integer(payload, "setup_index", signed=True)
    if length is None or index is None or 0 <= index <= length <= _USB_DATA_BYTES:
        return None
    return f"0 <= setup_index <= setup_len <= {_USB_DATA_BYTES} expected, found {index} and {length}"


def _aer_log(found: DescribedStruct, payload: memoryview) -> str | None:
    """``hw/pci/pcie_aer.c: vmstate_pcie_aer_log``: ``log_num`` errors are written into room for ``log_max``."""
    count = found.integer(payload, "log_num")
    room = found.integer(payload, "log_max")
    if count is None or room is None or count <= room:
        return None
    return f"log_num of at most log_max expected, found {count} and {room}"


KNOWN_BAD: Final = (
    KnownBad("CVE-2013-4541", "USBDevice", _usb_setup),
    KnownBad("CVE-2013-4529", "PCIE_AER_ERROR_LOG", _aer_log),
)


def find_known_bad(tail: DeviceTail) -> Iterator[str]:
    """What of :data:`KNOWN_BAD` is in the device sections, one sentence each: CVE, section, expected, found.

    :raises SchemaMismatch: the vmdesc cannot be read as deep as this needs.
    """
    raw = memoryview(tail.raw)
    described = list(described_structs(raw[tail.eof + VMDESC_HEADER_BYTES :]))
    for section, structs in zip(tail.sections, described[len(tail.early) :], strict=True):
        payload = raw[section.payload_start : section.payload_end]
        for struct in structs:
            for bad in KNOWN_BAD:
                wrong = bad.judge(struct, payload) if struct.name == bad.struct else None
                if wrong is not None:
                    yield f"{bad.cve} in {section.name}: {wrong}"
