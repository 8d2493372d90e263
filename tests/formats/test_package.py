"""Cutting a postcopy package: exactly one way to read it, or none at all."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import package as package_module
from formats.errors import FormatError, LimitExceeded, SchemaMismatch
from formats.package import cut_package, source_waits
from tests import builders as b

MANY = 4096
DEVICES = b.devices(2)


@pytest.mark.parametrize("loaded_ping", [True, False])
def test_the_sections_of_a_package(loaded_ping: bool) -> None:
    wire = b.package(DEVICES, loaded_ping=loaded_ping)
    sections = cut_package(wire, 0, MANY)
    assert [section.name for section in sections] == [
        "arm_gicv3/0", "cpu_common/0", "cpu/0", "cpu_common/1", "cpu/1", "slirp/0",
    ]  # fmt: skip
    for device, section in zip(DEVICES, sections, strict=True):
        assert wire[section.payload_start : section.payload_end] == device.payload
        assert (section.version_id, section.instance_id) == (device.version, device.instance)
    assert [wire[section.start : section.end] for section in sections] == [
        device.wire(3 + i) for i, device in enumerate(DEVICES)
    ]
    assert source_waits(wire) is loaded_ping


def test_a_package_without_sections() -> None:
    assert cut_package(b.package([]), 0, MANY) == ()


def forged(number: int = 3) -> bytes:
    """What a guest writes into a device so that its section seems to end there and another one to begin."""
    return b"x" * 8 + b.footer(number) + b.Device(b"fake", b"y" * 9).wire(99)[:-5]


def test_within_one_device_nothing_can_be_forged() -> None:
    """The forged section would need a footer of its own where the true one's is: its id, but that is the device's."""
    payload = b"x" * 8 + b.footer(3) + b.Device(b"fake", b"y" * 9).wire(3)[:-5]
    wire = b.package([b.Device(b"victim", payload * 50), *DEVICES[1:]])
    assert [section.idstr for section in cut_package(wire, 0, MANY)] == [
        "victim",
        *(d.name.decode() for d in DEVICES[1:]),
    ]


def test_a_guest_that_forges_a_section_across_two_devices_gets_no_reading_at_all() -> None:
    """It makes the first seem to end early, and a section begin that goes on to the end of the second."""
    payload = b"x" * 8 + b.footer(3) + b.Device(b"fake", b"").wire(4)[:-5] + b"y" * 20
    devices = [b.Device(b"victim", payload), b.Device(b"accomplice", b"z" * 30), *DEVICES[1:]]
    wire = b.package(devices)
    first = 0x100 + wire.index(b.footer(3)) + 5
    second = 0x100 + wire.rindex(b.footer(3)) + 5
    message = (
        f"at 0x105: package: victim/0 can be read to end at {first:#x} or {second:#x}: without a description nobody "
        "can tell which is true (a guest can make its devices look so)"
    )
    with pytest.raises(SchemaMismatch, match=f"^{re.escape(message)}$"):
        cut_package(wire, 0x100, MANY)
    # Not where the second one is a vCPU: its length is known, and the forged header says another.
    devices[1] = b.cpu(b.SOME_REGISTERS)
    devices[0] = b.Device(b"victim", payload.replace(b.Device(b"fake", b"").wire(4)[:-5], devices[1].wire(4)[:100]))
    assert len(cut_package(b.package(devices), 0, MANY)) == len(devices)


def test_readings_that_part_later() -> None:
    payload = b.footer(4) + b.Device(b"fake", b"").wire(5)[:-5]
    devices = [b.Device(b"first", b""), b.Device(b"victim", payload), b.Device(b"accomplice", b""), *DEVICES[1:]]
    with pytest.raises(SchemaMismatch, match=r"package: victim/0 can be read to end at"):
        cut_package(b.package(devices), 0, MANY)


def test_a_maze_is_left_by_not_entering_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections of other ids that fork and join, within one device: none of the ways through it is a reading."""

    def begin(number: int) -> bytes:
        return b.Device(b"a", b"").wire(number)[:-5]

    maze = b.footer(3) + begin(100)
    for number in range(100, 108):
        maze += (b.footer(number) + begin(number + 1)) * 2
    maze += b.footer(108) + begin(3)
    devices = [b.Device(b"victim", maze), *DEVICES[1:]]
    assert len(cut_package(b.package(devices), 0, MANY)) == len(devices)
    monkeypatch.setattr(package_module, "MAX_STEPS", 500)
    with pytest.raises(LimitExceeded, match="package: not read within 500 steps"):
        cut_package(b.package(devices), 0, MANY)


def test_a_footer_alone_deceives_nobody() -> None:
    for payload in (b.footer(3) * 5, b.footer(3) + b"\x04", forged()):
        wire = b.package([b.Device(b"victim", payload), *DEVICES[1:]])
        assert cut_package(wire, 0, MANY)[0].payload_end == 5 + 1 + 4 + 7 + 8 + len(payload)


def test_a_footer_in_a_vcpus_registers_is_not_the_end_of_it() -> None:
    """A vCPU's layout is known, so what a guest holds in its registers forges nothing."""
    fake = b.footer(3) + b.Device(b"cpu", b"", 22).wire(3)[:-5] + bytes(8)
    values = [int.from_bytes(fake[i : i + 8], "big") for i in range(0, len(fake) - 7, 8)]
    vcpu = b.cpu({0x603000000013C000 + i: value for i, value in enumerate(values)})
    assert fake[:24] in vcpu.payload
    (section,) = cut_package(b.package([vcpu]), 0, MANY)
    assert section.payload_end - section.payload_start == len(vcpu.payload)


def test_a_vcpus_registers_and_subsections_have_known_lengths() -> None:
    """What the guest holds in its vector registers is the longest run of bytes that it chooses."""
    vcpu = b.cpu(b.SOME_REGISTERS)
    vectors = b.footer(3) + b.Device(b"fake", b"").wire(4)[:-5] + bytes(4128)
    vcpu.payload += b.subsection(b"cpu/sve", 1, vectors[:4128])
    sections = cut_package(b.package([vcpu, b.Device(b"next", b"")]), 0, MANY)
    assert [section.idstr for section in sections] == ["cpu", "next"]
    # One that is not known is searched for its end, as a device is.
    vcpu.payload += b.subsection(b"cpu/new", 1, b"z")
    assert len(cut_package(b.package([vcpu]), 0, MANY)) == 1
    vcpu.payload += vectors[:30]
    with pytest.raises(SchemaMismatch, match="package: cpu/0 can be read to end at"):
        cut_package(b.package([vcpu, b.Device(b"next", b"")]), 0, MANY)


def test_a_vcpu_that_is_not_as_long_as_its_list_says() -> None:
    vcpu = b.cpu(b.SOME_REGISTERS)
    for payload in (vcpu.payload[:600], vcpu.payload[:100], vcpu.payload + b"z"):
        with pytest.raises(SchemaMismatch, match="sections that end where it ends expected"):
            cut_package(b.package([b.Device(b"cpu", payload, 22)]), 0, MANY)


GOOD = b.package(DEVICES)


@pytest.mark.parametrize(
    ("wire", "kind", "message"),
    [
        (b"nonsense", SchemaMismatch, "at 0x7: package: 0800040000 (LISTEN) expected, found 6e6f6e7365"),
        (GOOD[:-1], SchemaMismatch, None),
        (GOOD[:-1] + b"\x01", SchemaMismatch, None),
        (b.package([b.Device(b"bad\nname", b"x")]), SchemaMismatch, None),
        (b.package([b.Device(b"", b"x")]), SchemaMismatch, None),
        (GOOD[:5] + b"\x04" + GOOD[-23:], SchemaMismatch, None),
    ],
)
def test_what_is_not_a_package(wire: bytes, kind: type[FormatError], message: str | None) -> None:
    with pytest.raises(kind) as caught:
        cut_package(wire, 7, MANY)
    assert message is None or str(caught.value) == message
    assert "package: " in str(caught.value)


def test_more_sections_than_the_limit() -> None:
    with pytest.raises(LimitExceeded, match=re.escape("at most 2 device sections expected (limit sections)")):
        cut_package(GOOD, 0, 2)


def test_a_guest_that_wants_our_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_module, "MAX_CANDIDATES", 100)
    wire = b.package([b.Device(b"victim", (b.footer(3) + b.Device(b"x", b"").wire(3)[:-5]) * 200)])
    with pytest.raises(LimitExceeded, match="more than 100 byte patterns that look like the end of a section"):
        cut_package(wire, 0, MANY)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12),
            st.binary(max_size=60) | st.sampled_from([b.footer(4), b.footer(3) + b"\x04", b"\x7e\x04" * 9]),
        ),
        max_size=6,
    )
)
def test_an_honest_package_is_cut_right_or_not_at_all(parts: list[tuple[str, bytes]]) -> None:
    devices = [b.Device(name.encode(), payload) for name, payload in parts]
    sections = None
    with suppress(SchemaMismatch):
        sections = cut_package(b.package(devices), 0, MANY)
    assert sections is None or [section.idstr for section in sections] == [name for name, _ in parts]
