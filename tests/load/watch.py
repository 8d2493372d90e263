"""Somebody who looks at a daemon all the time, as an operator and a Prometheus do, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from tests.bench.machine import resident_bytes
from tests.load.daemon import Daemon, ask, scrape

PAUSE_S = 0.05
PATIENCE_S = 30

_spawned = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Seen:
    """Seconds and bytes."""

    looks: int
    failures: list[str]
    status_median_s: float
    status_longest_s: float
    scrape_median_s: float
    scrape_longest_s: float
    resident_before: int
    resident_peak: int
    descriptors_peak: int
    threads_peak: int


class Watcher:
    """``seen`` is there once the watch has ended."""

    def __init__(self) -> None:
        self.seen: Seen | None = None


@contextmanager
def watching(daemon: Daemon) -> Iterator[Watcher]:
    """Look until the end of the block."""
    ours, theirs = _spawned.Pipe()
    process = _spawned.Process(target=_watch, args=(theirs, daemon.control, daemon.metrics, daemon.pid), daemon=True)
    process.start()
    theirs.close()
    watcher = Watcher()
    try:
        assert ours.poll(PATIENCE_S), "the watcher does not begin"
        ours.recv()
        yield watcher
        ours.send("enough")
        assert ours.poll(2 * PATIENCE_S), "the watcher does not end"
        watcher.seen = ours.recv()
    finally:
        process.kill()
        process.join()
        ours.close()


def _watch(pipe: Connection, control: str, metrics: int, pid: int) -> None:
    before = peak = resident_bytes(pid, "VmRSS")
    statuses, scrapes, failures = [], [], []
    descriptors = threads = 0
    pipe.send("begun")
    while not pipe.poll(PAUSE_S):
        for what, times in (("status", statuses), ("scrape", scrapes)):
            began = time.monotonic()
            try:
                if what == "status":
                    answer = ask(control, "status", PATIENCE_S)
                    if "result" not in answer:
                        failures.append(f"status: {answer}")
                else:
                    scrape(metrics)
            except (OSError, ValueError, AssertionError) as error:
                failures.append(f"{what}: {error!r}")
            times.append(time.monotonic() - began)
        peak = max(peak, resident_bytes(pid, "VmRSS"))
        descriptors = max(descriptors, len(os.listdir(f"/proc/{pid}/fd")))
        threads = max(threads, len(os.listdir(f"/proc/{pid}/task")))
    pipe.send(
        Seen(
            looks=len(statuses),
            failures=failures,
            status_median_s=statistics.median(statuses),
            status_longest_s=max(statuses),
            scrape_median_s=statistics.median(scrapes),
            scrape_longest_s=max(scrapes),
            resident_before=before,
            resident_peak=peak,
            descriptors_peak=descriptors,
            threads_peak=threads,
        )
    )
