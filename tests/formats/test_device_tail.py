"""The device tail: only a vmdesc that fits every byte ends it."""

from __future__ import annotations

import json
import re

import pytest

from formats.device_tail import MAX_CANDIDATES, EarlyDevice, TailCollector, cut_sections
from formats.errors import FooterMismatch, FormatError, LimitExceeded, SchemaMismatch, TruncatedStream
from formats.vmdesc import parse_vmdesc
from tests import builders as b

DEVICES = b.devices()
TAIL = b.tail(DEVICES)


def collector(**limits: int) -> TailCollector:
    return TailCollector(0x1000, b.PAGE, **limits)


@pytest.mark.parametrize("step", [1, 2, 5, 64, len(TAIL)])
def test_the_end_is_found_in_any_chunking(step: int) -> None:
    tail = collector()
    results = [tail.add(TAIL[i : i + step]) for i in range(0, len(TAIL), step)]
    assert results[:-1] == [None] * (len(results) - 1)
    complete = results[-1]
    assert complete is not None
    assert [section.name for section in complete.sections] == ["arm_gicv3/0", "cpu_common/0", "cpu/0", "slirp/0"]
    assert TAIL[complete.eof : complete.eof + 2] == b"\x00\x06"
    for section, device in zip(complete.sections, DEVICES, strict=True):
        assert TAIL[section.payload_start : section.payload_end] == device.payload
    assert bytes(tail.data) == TAIL


def test_a_guest_cannot_forge_the_end_with_bytes_in_a_payload() -> None:
    """A payload that holds a footer, EOF and a vmdesc of other sections: the real end is what is found."""
    honest = b.devices()
    forged = b.tail(honest)[len(honest[0].wire(3)) :]  # what a guest could copy: everything behind the first section
    evil = b.Device(b"virtio-console", b"\x7e" + b.be32(3) + forged)
    wire = b.tail([*honest, evil])
    tail = collector()
    results = [tail.add(wire[i : i + 1]) for i in range(len(wire))]
    assert results[:-1] == [None] * (len(wire) - 1)
    complete = results[-1]
    assert complete is not None
    assert complete.sections[-1].name == "virtio-console/0"


def desc(**change: object) -> bytes:
    """The right description with something changed."""
    described = json.loads(b.vmdesc(DEVICES)[5:])
    described.update(change)
    data = json.dumps(described).encode()
    return b"\x00\x06" + b.be32(len(data)) + data


SECTIONS = TAIL[: TAIL.rindex(b"\x00\x06\x00")]


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (SECTIONS, "without a vmdesc (cut off, or the source runs with suppress-vmdesc=on)"),
        (TAIL[:-1], "without a vmdesc (cut off, or the source runs with suppress-vmdesc=on)"),
        (TAIL + b"xyz", "end of the stream expected, found 3 bytes more"),
        (
            SECTIONS + b"\x00\x06" + b.be32(5) + b"{nah}",
            "without a vmdesc that fits them: vmdesc: expected QEMU's JSON description, found: ",
        ),
        (SECTIONS + b"\x00\x06" + b.be32(5) + b"{nah}" + b"!", "that fits them: vmdesc: expected QEMU's JSON"),
        (SECTIONS + desc(page_size=65536), "vmdesc: page size 4096 expected, found 65536"),
        (SECTIONS + desc(devices=[]), "device sections end at 0x1000 by the vmdesc, "),
    ],
)
def test_what_is_missing_is_said(wire: bytes, message: str) -> None:
    tail = collector()
    assert tail.add(wire) is None
    error = tail.diagnose()
    assert isinstance(error, FormatError)
    assert message in str(error)
    if "cut off" in message:
        assert isinstance(error, TruncatedStream)


@pytest.mark.parametrize("step", [1, 6, 7, 8, 1000])
def test_every_pattern_that_looks_like_a_vmdesc_counts_once(step: int) -> None:
    wire = (b"\x00\x06" * 3 + b"\x00\x10\x00\x00{") * 40 + b"\n\x00\x06\n\n\n\n{"
    tail = collector()
    for i in range(0, len(wire), step):
        tail.add(wire[i : i + step])
    # The last one's length, 0x0a0a0a0a, is more than device state may have.
    assert sum(map(len, tail._candidates.values())) == 40
    assert len(tail.data) == len(wire)


def test_limits() -> None:
    message = re.escape(
        f"at 0x1000: device state of at most 100 bytes expected (limit device_state_bytes), found at least {len(TAIL)}"
    )
    with pytest.raises(LimitExceeded, match=f"^{message}$"):
        collector(max_bytes=100).add(TAIL)
    with pytest.raises(LimitExceeded, match=r"at most 3 device sections expected \(limit sections\), found 4$"):
        collector(max_sections=3).add(TAIL)
    with pytest.raises(LimitExceeded, match=f"more than {MAX_CANDIDATES} byte patterns that look like a vmdesc$"):
        collector().add(b"\x00\x06\x00\x10\x00\x00{" * (MAX_CANDIDATES + 1))


def cut(wire: bytes, devices: list[b.Device]) -> None:
    cut_sections(wire, parse_vmdesc(b.vmdesc(devices)[5:]).devices, 0x100)


@pytest.mark.parametrize(
    ("wire", "kind", "message"),
    [
        (b"", SchemaMismatch, r"^at 0x100: dev/0: section header expected, found the end$"),
        (
            b"\x04" + b.be32(3) + b"\x03d\xffv" + bytes(8),
            SchemaMismatch,
            r"^at 0x100: dev/0: section header expected, found a name that is not ASCII$",
        ),
        (
            b.Device(b"vde", b"12").wire(3),
            SchemaMismatch,
            r"^at 0x100: dev/0: FULL section expected, found type 0x4 'vde'/0$",
        ),
        (
            b.Device(b"dev", b"12", version=9).wire(3),
            SchemaMismatch,
            r"^at 0x100: dev/0: version 1 by the vmdesc, 9 in the header$",
        ),
        (
            b.Device(b"dev", b"123").wire(3),
            FooterMismatch,
            r"^at 0x113: dev/0: footer 7e 00 00 00 03 expected, found 33 7e 00 00 00$",
        ),
        (
            b.Device(b"dev", b"12").wire(3)[:-5],
            FooterMismatch,
            r"^at 0x113: dev/0: footer 7e 00 00 00 03 expected, found the end$",
        ),
        (
            b.Device(b"dev", b"12").wire(3) + b"?",
            SchemaMismatch,
            r"^at 0x118: device sections end at 0x118 by the vmdesc, 1 bytes before EOF$",
        ),
    ],
)
def test_sections_that_are_not_as_described(wire: bytes, kind: type[FormatError], message: str) -> None:
    with pytest.raises(kind, match=message):
        cut(wire, [b.Device(b"dev", b"12")])


EARLY = EarlyDevice("0000:00:01.0/virtio-mem-device-early", 0, 1, 44)
EARLY_DESCRIBED = b.Device(EARLY.idstr.encode(), bytes(44))


def test_sections_that_came_before_memory_are_described_first_and_cut_no_more() -> None:
    sections = TAIL[: -len(b.vmdesc(DEVICES))]
    tail = TailCollector(0x1000, b.PAGE, early=(EARLY,))
    complete = tail.add(sections + b.vmdesc([EARLY_DESCRIBED, *DEVICES]))
    assert complete is not None
    assert [section.device.name for section in complete.sections] == [device.name.decode() for device in DEVICES]
    assert EARLY.name == "0000:00:01.0/virtio-mem-device-early/0"


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (DEVICES, f"vmdesc: device 0 expected to be {EARLY.name}, found arm_gicv3/0"),
        ([], f"vmdesc: device 0 expected to be {EARLY.name}, found none"),
        (
            [b.Device(EARLY.idstr.encode(), bytes(44), version=2)],
            f"vmdesc: device 0 expected to be {EARLY.name}, found",
        ),
        (
            [b.Device(EARLY.idstr.encode(), bytes(43)), *DEVICES],
            f"{EARLY.name}: 43 bytes expected by the vmdesc, 44 were taken",
        ),
    ],
)
def test_what_was_taken_before_memory_must_be_what_the_vmdesc_says(described: list[b.Device], message: str) -> None:
    tail = TailCollector(0x1000, b.PAGE, early=(EARLY,))
    assert tail.add(TAIL[: -len(b.vmdesc(DEVICES))] + b.vmdesc(described)) is None
    assert message in str(tail.diagnose())
