"""Very many inputs from seeds, on every processor; what came of them; and the page that tells of it.

A seed is an input for ever, as long as the generator is the same: a finding is its target and its seed, and goes into
the corpus as soon as it is mended. A run goes on where the last one of the same generator stopped.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.fuzz.choices import SeedChoices
from tests.fuzz.targets import SHARES, TARGETS

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results" / "campaign.json"
SLICE: Final = 2000
"""Inputs that one process takes at a time."""

_GENERATOR: Final = ("choices.py", "streams.py", "documents.py", "targets.py")


@dataclass
class Result:
    """What came of the inputs of one target. ``slowest_ms`` is of the seed ``slowest``; ``peak_kib`` of a process."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    slowest_ms: float = 0.0
    slowest: int = 0
    peak_kib: int = 0

    def add(self, other: Result) -> None:
        """Put another part of the same run to this one."""
        self.inputs += other.inputs
        self.outcomes.update(other.outcomes)
        self.findings += other.findings
        if other.slowest_ms > self.slowest_ms:
            self.slowest_ms, self.slowest = other.slowest_ms, other.slowest
        self.peak_kib = max(self.peak_kib, other.peak_kib)


def generator() -> str:
    """What made the inputs: they are others if this is another."""
    return hashlib.sha256(b"".join((HERE / name).read_bytes() for name in _GENERATOR)).hexdigest()[:12]


def take(work: tuple[str, int, int]) -> tuple[str, Result]:
    """Feed one target with the inputs of some seeds."""
    name, first, count = work
    target, result = TARGETS[name], Result()
    for seed in range(first, first + count):
        began = time.process_time()
        try:
            outcome = target(SeedChoices(seed))
        except Exception as error:
            outcome = "FINDING"
            where = "".join(traceback.format_exception(error, limit=-2))
            result.findings.append({"target": name, "seed": seed, "error": repr(error)[:300], "where": where[-600:]})
        result.outcomes[outcome.partition(" ")[0].rstrip(",") if name == "qemu-log" else outcome] += 1
        spent = (time.process_time() - began) * 1000
        if spent > result.slowest_ms:
            result.slowest_ms, result.slowest = spent, seed
    result.inputs = count
    result.peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return name, result


def run(
    targets: list[str], inputs: int, seconds: float, *, path: Path | None = RESULTS, jobs: int | None = None
) -> int:
    """Feed ``inputs`` in all to these targets, in their shares. Returns the number of findings."""
    results = _load(path)
    shares = {name: SHARES.get(name, 1) for name in targets}
    until = time.monotonic() + seconds
    count = jobs or os.cpu_count() or 1
    done = 0
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        for name, part in pool.imap_unordered(take, _work(results, shares, inputs, until)):
            results.setdefault(name, Result()).add(part)
            done += part.inputs
            if path is not None:
                _save(path, results)
            total = sum(len(result.findings) for result in results.values())
            sys.stderr.write(f"\r{done} of {inputs} inputs, {total} findings ")
    sys.stderr.write("\n")
    return sum(len(result.findings) for result in results.values())


def _work(
    results: dict[str, Result], shares: dict[str, int], inputs: int, until: float
) -> Iterator[tuple[str, int, int]]:
    whole = sum(shares.values())
    left = {name: max(1, inputs * share // whole) for name, share in shares.items()}
    next_seed = {name: results[name].inputs if name in results else 0 for name in shares}
    while any(left.values()) and time.monotonic() < until:
        for name in shares:
            size = min(SLICE, left[name])
            if size:
                yield name, next_seed[name], size
                next_seed[name] += size
                left[name] -= size


def _load(path: Path | None) -> dict[str, Result]:
    if path is None or not path.exists():
        return {}
    document = json.loads(path.read_text())
    if document["generator"] != generator():
        return {}
    return {name: Result(**{**one, "outcomes": Counter(one["outcomes"])}) for name, one in document["targets"].items()}


def _save(path: Path, results: dict[str, Result]) -> None:
    document = {"generator": generator(), "targets": {name: vars(one) for name, one in sorted(results.items())}}
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    partial.replace(path)


def page(path: Path = RESULTS) -> str:
    """The recorded campaign as a table."""
    document = json.loads(path.read_text())
    lines = ["| target | inputs | what came of them | findings | slowest |", "| --- | --- | --- | --- | --- |"]
    for name, one in document["targets"].items():
        most = sorted(one["outcomes"].items(), key=lambda item: -item[1])[:6]
        outcomes = ", ".join(f"{word} {count}" for word, count in most)
        lines.append(f"| {name} | {one['inputs']} | {outcomes} | {len(one['findings'])} | {one['slowest_ms']:.0f} ms |")
    whole = sum(one["inputs"] for one in document["targets"].values())
    streams = sum(document["targets"][name]["inputs"] for name in ("parser", "rewriter"))
    peak = max(one["peak_kib"] for one in document["targets"].values())
    lines += ["", f"{whole} inputs, {streams} of them whole streams; at most {peak >> 10} MiB in one process."]
    return "\n".join(lines)
