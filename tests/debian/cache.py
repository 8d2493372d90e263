"""The cache directory of the tests, and how several processes share it.

Entries are directories that appear by rename when they are whole, and are never changed afterwards: a reader
needs no lock, and an interrupted run leaves only a scratch directory that the next run removes.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_directory() -> Path:
    """Where downloads live: ``$PROXYD_CACHE``, or ``~/.cache/proxyd-tests``."""
    given = os.environ.get("PROXYD_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "proxyd-tests"


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock called *name*; waits while another process has it, ends with the process."""
    directory = cache_directory() / "locks"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def entry(name: str, fill: Callable[[Path], None]) -> Path:
    """Return the cache entry *name* (a relative path); *fill* gets an empty directory the first time."""
    final = cache_directory() / name
    if final.is_dir():
        return final
    with locked(name.replace("/", "-")):
        if final.is_dir():  # another process was quicker
            return final
        scratch = final.with_name(final.name + ".part")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        fill(scratch)
        scratch.rename(final)
    return final
