"""Device sections before memory: their end is where something can follow their footer."""

from __future__ import annotations

import pytest

from formats import early_section
from formats.cursor import Cursor
from formats.device_tail import EarlyDevice
from formats.early_section import read_early_section
from formats.errors import LimitExceeded
from formats.events import EarlySection
from tests import builders as b
from tests.walking import run

FOOTER = b.footer(9)
RAM = b.start(2, b"")
FOLLOWING = [
    RAM,
    b.Device(b"0000:00:02.0/virtio-mem-device-early", b"another").wire(10),
    b.part(2, b""),
    b.end(2, b""),
    b.POSTCOPY_ADVISE,
]


def read(wire: bytes, step: int) -> tuple[EarlySection, Cursor]:
    cursor = Cursor()
    return run(cursor, read_early_section(cursor, {2}), wire, step), cursor


@pytest.mark.parametrize("following", FOLLOWING)
@pytest.mark.parametrize("step", [1, 4, 50, 1000])
@pytest.mark.parametrize("payload", [b"", b"payload", FOOTER[:3], FOOTER[1:], bytes(100)])
def test_the_end_is_found_in_any_chunking(following: bytes, step: int, payload: bytes) -> None:
    section = b.Device(b"early", payload, version=3, instance=4).wire(9)
    found, cursor = read(section + following, step)
    assert found == EarlySection(0, section, 9, EarlyDevice("early", 4, 3, len(payload)))
    assert cursor.offset == len(section)
    assert (section + following)[len(section) :].startswith(bytes(cursor.view[cursor.position :]))


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize(
    "not_next",
    [
        b"\0",  # EOF: memory is still to come
        b"\x05",
        b.FLAG_EOS.to_bytes(8, "big"),
        b.part(3, b""),  # of no section that is open
        b"\x01" + b.be32(2) + b"\0",  # a section without a name
        b"\x04" + b.be32(2) + b"\x03a\nb",
        b"\x08\x00\x63\x00\x00",  # no command of QEMU's
    ],
)
def test_a_footer_that_nothing_can_follow_is_payload(step: int, not_next: bytes) -> None:
    section = b.Device(b"early", b"bitmap" + FOOTER + not_next + b"more").wire(9)
    found, _ = read(section + RAM, step)
    assert found.raw == section


def test_an_end_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_section, "MAX_EARLY_BYTES", 100)
    message = r"^at 0x0: device section 'early' before memory: its end expected within 100 bytes, found none$"
    with pytest.raises(LimitExceeded, match=message):
        read(b.Device(b"early", bytes(200)).wire(8), 10)
    cursor = Cursor()
    with pytest.raises(LimitExceeded, match=r"section name of at most 4 bytes expected"):
        run(cursor, read_early_section(cursor, {2}, 4), b.Device(b"early", b"").wire(9), 400)
