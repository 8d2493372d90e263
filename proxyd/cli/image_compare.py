"""Whether an output is what a rewrite would write: the proof that a run which is resumed has nothing to do.

Nothing is noted in a file beside it, which could lie: the input goes through the rewriter, and what comes out is
compared with what is there, byte by byte; of a mapped-ram file the pages by their digests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.cli.exit_codes import InputError
from proxyd.cli.sparse_copy import sparse_digest
from proxyd.cli.stream_file import open_stream

if TYPE_CHECKING:
    from proxyd.cli.offline_rewrite import Reading
    from proxyd.cli.stream_file import StreamFile


def same_already(reading: Reading, path: str) -> bool:
    """Read ``reading`` to its end and compare. Raises as the rewriter does; a ``path`` that is bad is only not it.

    The input need not be read to its end where the answer is no.
    """
    try:
        with open_stream(path, "comparing") as there:
            return there.head == reading.file.head and _same(reading, there)
    except InputError:
        if not reading.file.unchanged():
            raise
        return False


def _same(reading: Reading, there: StreamFile) -> bool:
    content = _Content(there)
    for chunk in reading.file.chunks():
        for buffer in reading.feed(chunk):
            if content.take(len(buffer)) != buffer:
                return False
        if reading.jumped_to is not None:
            if there.seekable_from is None:
                return False
            content.go_to(reading.jumped_to)
    reading.finish()
    if content.take(1):
        return False
    if not reading.sparse:
        return True
    ours = reading.identity()
    return sparse_digest(there.descriptor, (there.seekable_from or 0) + ours.ram_bytes) == ours.digest


class _Content:
    """A stream's bytes in pieces of any size."""

    def __init__(self, file: StreamFile) -> None:
        self._file = file
        self._rest = memoryview(b"")

    def take(self, count: int) -> bytes:
        """The next bytes, fewer only at the end."""
        parts = []
        while count:
            if not self._rest:
                self._rest = memoryview(self._file.read())
                if not self._rest:
                    break
            part, self._rest = self._rest[:count], self._rest[count:]
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def go_to(self, offset: int) -> None:
        self._rest = memoryview(b"")
        self._file.go_to(offset)
