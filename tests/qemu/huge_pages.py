"""Huge pages for as long as a test runs. The kernel gives them to root only; other users' tests of them fail."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COUNT = Path("/proc/sys/vm/nr_hugepages")
"""How many there are, of the default size, which is 2 MiB on the machines that run the tests."""


@contextmanager
def huge_pages(number: int) -> Iterator[None]:
    """Have *number* more huge pages than before."""
    if not number:
        yield
        return
    before = int(COUNT.read_text())
    COUNT.write_text(str(before + number))
    try:
        assert int(COUNT.read_text()) == before + number, f"the kernel has no {number} huge pages to give"
        yield
    finally:
        COUNT.write_text(str(before))
