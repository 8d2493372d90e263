"""Counting pages: on built streams page by page, on recorded ones against what the RAM blocks must add up to."""

from __future__ import annotations

import pytest

from formats import events
from formats.iterative.ram_blocks import BlockFields
from formats.iterative.ram_census import RamBlock, RamCensus
from formats.parser import StreamParser
from tests import builders as b
from tests import recorded

# Those with the most RAM blocks. The small guests differ in nothing that is counted here.
FULL = [name for name in recorded.names() if "full" in name]
assert FULL

RECORDS = (
    b.mem_size({b"mach-virt.ram": 8 * b.PAGE, b"virt.flash0": b.PAGE})
    + b.EOS
    + b.page(0, block=b"mach-virt.ram")
    + b.page(b.PAGE)
    + b.zero_page(2 * b.PAGE)
    + b.EOS
    # CONTINUE survives the section's border.
    + b.zero_page(3 * b.PAGE)
    + b.zero_page(0, b"virt.flash0")
    + b.be64(b.PAGE | b.FLAG_XBZRLE | b.FLAG_CONTINUE)
    + b"\x01\x00\x03abc"
    + b.be64(b.FLAG_COMPRESS)
    + b.counted(b"mach-virt.ram")
    + b.be32(5)
    + b"12345"
    + b.EOS
)


@pytest.mark.parametrize("step", [1, 3, 4099, len(RECORDS)])
def test_pages_are_counted_by_block_and_kind(step: int) -> None:
    census = RamCensus(b.PAGE)
    for i in range(0, len(RECORDS), step):
        census.feed(RECORDS[i : i + step])
    assert census.blocks == (
        RamBlock("mach-virt.ram", 8 * b.PAGE, pages=2, zero_pages=2, encoded_pages=1),
        RamBlock("virt.flash0", b.PAGE, zero_pages=1, encoded_pages=1),
    )


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("page_size", [b"", b.be64(1 << 21)])
def test_blocks_with_a_page_size_of_their_own(step: int, page_size: bytes) -> None:
    wire = (
        b.be64(b.PAGE | b.FLAG_MEM_SIZE)
        + b.counted(b"ram")
        + b.be64(b.PAGE)
        + page_size
        + b.EOS
        + b.zero_page(0, b"ram")
    )
    census = RamCensus(b.PAGE, BlockFields(page_size=True))
    for i in range(0, len(wire), step):
        census.feed(wire[i : i + step])
    assert census.blocks == (RamBlock("ram", b.PAGE, zero_pages=1),)


@pytest.mark.parametrize("name", FULL)
def test_a_recorded_guest_sends_every_page_of_its_memory_at_least_once(name: str) -> None:
    parser = StreamParser()
    census = RamCensus(b.PAGE)
    for event in parser.feed(recorded.load(name)):
        if isinstance(event, events.BulkData):
            census.feed(event.raw)
    ram = {block.name: block for block in census.blocks}
    assert (ram["mach-virt.ram"].size, parser.page_size) == (16 << 20, b.PAGE)
    assert all(block.pages + block.zero_pages >= block.size // b.PAGE for block in census.blocks)
    assert all(block.encoded_pages == 0 for block in census.blocks)
