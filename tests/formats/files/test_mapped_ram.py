"""The block list of a mapped-ram file: passed over in jumps, by whoever can jump, and by nobody else."""

from __future__ import annotations

import struct

import pytest

from formats import events
from formats.errors import FormatError, LimitExceeded, SchemaMismatch, UnsupportedStream
from formats.files import mapped_ram
from formats.parser import StreamParser
from tests import builders as b
from tests import images


def parse(data: bytes, begin: int = 0, chunk: int = 1 << 20) -> tuple[StreamParser, list[events.Event]]:
    """As a file is read: every chunk from where the parser wants to go on."""
    parser = StreamParser(seekable_from=begin)
    found: list[events.Event] = []
    while piece := data[parser.offset : parser.offset + chunk]:
        found += parser.feed(piece)
    parser.finish()
    return parser, found


@pytest.mark.parametrize("head", [b"", b"h" * 70000])
@pytest.mark.parametrize("chunk", [1, 7, 4096, 1 << 20, 1 << 24])
def test_only_what_is_between_the_pages_is_read(head: bytes, chunk: int) -> None:
    data = images.mapped_ram(head)
    parser, found = parse(data, len(head), chunk)
    blocks = parser.mapped_ram.blocks if parser.mapped_ram else []
    assert [(one.name, one.size) for one in blocks] == [
        ("mach-virt.ram", 2 * images.MIB),
        ("/rom@etc/acpi/rsdp", b.PAGE),
    ]
    for one in blocks:
        assert one.pages_offset % images.MIB == 0
        assert data[one.bitmap_offset] & 1
    assert data[blocks[0].pages_offset :][:4] == b"\xa5" * 4
    # What was said is the file without the bitmaps and the pages.
    assert all(data[event.offset : event.offset + len(event.raw)] == event.raw for event in found)
    skipped = sum(one.end - one.bitmap_offset for one in blocks)
    assert sum(len(event.raw) for event in found) == len(data) - len(head) - skipped
    assert parser.tail_offset == found[-1].offset


@pytest.mark.parametrize("chunk", [1, 4096])
def test_memory_that_is_shared_is_not_in_the_file(chunk: int) -> None:
    data = images.mapped_ram(shared={b"ram0": 32 * images.MIB})
    parser, found = parse(data, chunk=chunk)
    assert parser.mapped_ram is not None
    assert [one.name for one in parser.mapped_ram.blocks] == ["mach-virt.ram", "/rom@etc/acpi/rsdp"]
    assert isinstance(found[-1], events.DeviceTail)


def test_a_multifd_flush_is_no_page() -> None:
    data = images.mapped_ram()
    at = data.rindex(b.part(2, b.EOS))
    flushed = data[:at] + b.part(2, b.be64(b.FLAG_MULTIFD_FLUSH) + b.EOS) + data[at:]
    assert parse(flushed)[0].complete


def test_a_socket_cannot_carry_it() -> None:
    with pytest.raises(UnsupportedStream, match="mapped-ram is for files"):
        list(StreamParser().feed(images.mapped_ram()))


def changed(at_header: int, new: bytes) -> bytes:
    """The first block's header with other bytes."""
    data = bytearray(images.mapped_ram())
    start = data.index(b"mach-virt.ram") + 13 + 8
    data[start + at_header : start + at_header + len(new)] = new
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (changed(0, b.be32(2)), UnsupportedStream, "version 1 expected, found 2"),
        (changed(4, b.be64(65536)), SchemaMismatch, "pages of 4096 bytes expected, found 65536"),
        (changed(12, b.be64(5)), SchemaMismatch, "its bitmap expected at 0x"),
        (changed(20, b.be64(images.MIB + 4096)), SchemaMismatch, "at a whole MiB, found 0x101000"),
        (changed(20, b.be64(0)), SchemaMismatch, "expected behind the bitmap"),
        (changed(20, b.be64(1 << 63)), SchemaMismatch, "its pages expected within a file"),
        (changed(-8, b.be64(0)), SchemaMismatch, "block 'mach-virt.ram' has 0x0"),
        (changed(-8, b.be64(4097)), SchemaMismatch, "whole pages"),
        (changed(-8, b.be64(1 << 30)), SchemaMismatch, "whole pages of at most 0x201000 bytes"),
    ],
)
def test_one_clear_error(data: bytes, error: type[FormatError], said: str) -> None:
    with pytest.raises(error) as caught:
        parse(data)
    assert said in str(caught.value)


def test_pages_that_are_not_in_their_places() -> None:
    data = images.mapped_ram()
    at = data.rindex(b.part(2, b.EOS))
    with pytest.raises(UnsupportedStream, match="no RAM record but EOS expected, found flags 0x8"):
        parse(data[:at] + b.part(2, b.page(0, block=b"r") + b.EOS) + data[at:])


def test_too_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_ram, "MAX_BLOCKS", 1)
    with pytest.raises(LimitExceeded, match="more than 1 blocks"):
        parse(images.mapped_ram())


def test_the_bitmap_of_an_odd_block_has_all_its_bits() -> None:
    assert mapped_ram.MappedBlock("r", 9 * 4096, 4096, 0, 0).bitmap_bytes == 2
    assert mapped_ram.HEADER.sizeof() == struct.calcsize(">IQQQ")
