"""How fast guest memory is walked: StreamParser.feed on 1 MiB chunks, no sockets."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

from formats.parser import StreamParser
from tests import builders
from tests.bench import load

CHUNK = 1 << 20
KINDS: dict[str, Callable[[int], bytes]] = {
    "full pages": load.pages,
    "zero pages": load.zero_pages,
    "full and zero pages, mixed": load.mixed_pages,
}


def run(rounds: int, guest_bytes: int = 1 << 30) -> dict[str, Any]:
    """Per kind of page: GB of guest memory a second (medians), and nanoseconds a page."""
    results = {}
    for kind, records in KINDS.items():
        seconds = [_once(records, guest_bytes) for _ in range(rounds)]
        median = statistics.median(seconds)
        results[kind] = {
            "guest_gb_per_s": guest_bytes / 1e9 / median,
            "ns_per_page": median / (guest_bytes / builders.PAGE) * 1e9,
        }
    return results


def _once(records: Callable[[int], bytes], guest_bytes: int) -> float:
    """CPU seconds to walk ``guest_bytes`` of guest memory."""
    block_pages = 16384 if records is load.zero_pages else load.BLOCK_PAGES
    block = records(block_pages)
    parser = StreamParser()
    opening = load.stream(0).prologue + b"\x02" + builders.be32(load.RAM_ID) + builders.zero_page(0, b"mach-virt.ram")
    events = sum(1 for _ in parser.feed(opening))
    chunks = [block[start : start + CHUNK] for start in range(0, len(block), CHUNK)]
    count = round(guest_bytes / builders.PAGE / block_pages) * len(chunks)
    began = time.process_time()
    for chunk in itertools.islice(itertools.cycle(chunks), count):
        for event in parser.feed(chunk):
            events += len(event.raw) > 0
    return time.process_time() - began
