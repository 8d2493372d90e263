"""How long the guest waits for the device part: from its bytes at the source to its last byte at the destination."""

from __future__ import annotations

import lzma
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests import recorded
from tests.bench import load, machine, proxies
from tests.bench.recorded_tail import device_part

VCPUS = (1, 16, 64)
RAM_BYTES = 64 << 20
# A host whose list lacks registers that the recorded guests of tests.bench.recorded_tail have, and has others.
DESTINATION = "7.3-10.0.13-neoverse-n1-plain-smp1"
QUIET_SECONDS = 0.3


def run(rounds: int) -> dict[str, Any]:
    """Per number of vCPUs, in milliseconds: medians and the longest."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, load.loopback_listener() as listener:
        scratch = Path(name)
        rewriting = proxies.proxyd(destination_host=str(_host_description(scratch)))
        for vcpus in VCPUS:
            part = device_part(vcpus).bytes
            taken: dict[str, list[float]] = defaultdict(list)
            for _ in range(rounds):
                taken["last byte to last byte"].append(_pass(rewriting, scratch, listener, part, 1))
                taken["device part, through proxyd"].append(_pass(rewriting, scratch, listener, part, len(part)))
                taken["device part, no proxy"].append(_pass(proxies.direct, scratch, listener, part, len(part)))
            results[str(vcpus)] = {"device_part_bytes": len(part)} | {
                what: {"median_ms": statistics.median(values) * 1e3, "longest_ms": max(values) * 1e3}
                for what, values in taken.items()
            }
    return results


def _host_description(scratch: Path) -> Path:
    stream, host = scratch / "destination.bin", scratch / "destination.json"
    stream.write_bytes(lzma.decompress((recorded.STREAMS / f"{DESTINATION}.bin.xz").read_bytes()))
    subprocess.run([proxies.PROXYD, "probe", "--from-stream", stream, "-o", host], check=True, capture_output=True)
    return host


def _pass(command: proxies.Command, scratch: Path, listener: Any, part: bytes, held_back: int) -> float:
    """Seconds from the last ``held_back`` bytes of the device part to its last byte at the destination."""
    stream = load.stream(RAM_BYTES, part)
    port = listener.getsockname()[1]
    with (
        proxies.running(command, scratch, port) as proxy,
        load.destination(listener, None) as destination,
        load.source(proxy.port if proxy else port, stream, held_back) as source,
    ):
        source.result()
        _settle(proxy.port if proxy else port, port)
        source.tell("go on")
        sent = source.result()
        time.sleep(QUIET_SECONDS)
        destination.tell("report")
        arrival = destination.result()
        assert (arrival.bytes == stream.bytes) is (proxy is None), "proxyd was to rewrite this stream"
        assert arrival.last > sent
        destination.tell("say SHUT(0)")
        assert source.result() == load.SHUT_0
    return float(arrival.last - sent)


def _settle(port: int, destination_port: int) -> None:
    """Until nothing waits in the kernel."""
    quiet = 0
    while quiet < 5:
        quiet = 0 if any(machine.queued_bytes(port, destination_port)) else quiet + 1
        time.sleep(0.01)
