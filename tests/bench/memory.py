"""What proxyd holds: resident memory while a stream passes, and what waits in the kernel before a slow destination."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.bench import load, machine, proxies

SLOW = 200e6
SLOW_BYTES = 300_000_000
SAMPLE_SECONDS = 0.01


def run(size: int) -> dict[str, Any]:
    """Bytes: resident before, highest resident, highest of the two kernel queues with a slow destination."""
    stream = load.stream(size)
    with tempfile.TemporaryDirectory() as scratch, load.loopback_listener() as listener:
        idle, highest, _ = _pass(Path(scratch), listener, stream, None)
        _, _, queued = _pass(Path(scratch), listener, load.stream(SLOW_BYTES), SLOW)
    return {
        "stream_bytes": stream.bytes,
        "resident_before": idle,
        "resident_highest": highest,
        "slow_destination_bytes_per_s": SLOW,
        "queued_highest": queued,
    }


def _pass(scratch: Path, listener: Any, stream: load.Stream, rate: float | None) -> tuple[int, int, int]:
    port = listener.getsockname()[1]
    queued = 0
    with (
        proxies.running(proxies.proxyd(), scratch, port) as proxy,
        load.destination(listener, stream.bytes, rate) as destination,
    ):
        assert proxy is not None
        idle = machine.resident_bytes(proxy.pid)
        with load.source(proxy.port, stream) as source:
            while not destination.wait(SAMPLE_SECONDS):
                if rate is not None:
                    queued = max(queued, sum(machine.queued_bytes(proxy.port, port)))
            highest = machine.resident_bytes(proxy.pid)
            assert destination.result().bytes == stream.bytes
            destination.tell("say SHUT(0)")
            source.result()
            assert source.result() == load.SHUT_0
    return idle, highest, queued
