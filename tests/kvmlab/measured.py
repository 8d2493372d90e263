"""The results that are in the tree: what docs/compatibility.md is made of."""

from functools import cache
from pathlib import Path

from tests.kvmlab.results import Results, read_results

DIRECTORY = Path(__file__).with_name("results")


@cache
def measured() -> Results:
    """Read all of them, in the order of their names. None at all is an error, not an empty test."""
    files = sorted(DIRECTORY.glob("*.jsonl.xz"))
    if not files:
        raise AssertionError(f"no results in {DIRECTORY}")
    return read_results(files)
