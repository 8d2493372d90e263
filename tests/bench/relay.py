"""A whole migration through proxyd, socat and haproxy on loopback, in turns: throughput and CPU per GB."""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.bench import load, machine, proxies

YARDSTICK = "haproxy, splice, 1 MiB pipes"
CANDIDATES: dict[str, proxies.Command] = {
    "no proxy": proxies.direct,
    "socat": proxies.socat(),
    "socat -b 1M": proxies.socat("-b", str(1 << 20)),
    "haproxy": proxies.haproxy(splice=False),
    "haproxy, splice": proxies.haproxy(splice=True),
    YARDSTICK: proxies.haproxy(splice=True, pipe_bytes=1 << 20),
    "proxyd": proxies.proxyd(),
}


def run(rounds: int, size: int) -> dict[str, Any]:
    """Per proxy: GB/s and CPU seconds per GB, medians over the rounds."""
    stream = load.stream(size)
    passes: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch, load.loopback_listener() as listener:
        for _ in range(rounds):
            for name, command in CANDIDATES.items():
                passes[name].append(one_pass(command, Path(scratch), listener, stream))
    return {
        name: {
            "gb_per_s": statistics.median(speed for speed, _ in taken),
            "cpu_s_per_gb": statistics.median(cpu for _, cpu in taken),
            "gb_per_s_to_socat": _ratio(taken, passes["socat -b 1M"], 0),
            "cpu_to_haproxy": _ratio(taken, passes[YARDSTICK], 1),
            "passes": taken,
        }
        for name, taken in passes.items()
    }


def _ratio(these: list[tuple[float, float]], those: list[tuple[float, float]], figure: int) -> float:
    """The median of the rounds' ratios: what slows a round down slows both."""
    return statistics.median(this[figure] / that[figure] for this, that in zip(these, those, strict=True))


def one_pass(command: proxies.Command, scratch: Path, listener: Any, stream: load.Stream) -> tuple[float, float]:
    """(GB/s, CPU seconds of the proxy per GB) of one migration."""
    gigabytes = stream.bytes / 1e9
    port = listener.getsockname()[1]
    with (
        proxies.running(command, scratch, port) as proxy,
        load.destination(listener, stream.bytes) as destination,
    ):
        before = machine.cpu_seconds(proxy.pid) if proxy else 0.0
        with load.source(proxy.port if proxy else port, stream) as source:
            arrival = destination.result()
            after = machine.cpu_seconds(proxy.pid) if proxy else 0.0
            assert arrival.bytes == stream.bytes, (arrival.bytes, stream.bytes)
            destination.tell("say SHUT(0)")
            source.result()
            assert source.result() == load.SHUT_0
    return gigabytes / (arrival.last - arrival.first), (after - before) / gigabytes
