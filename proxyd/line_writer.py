"""Log lines on their way to standard error, which may be slow, stuck or dead: a bounded queue and a thread that writes.

A reader of standard error that stops (a full pipe, a journal on a full disk) blocks whoever writes to it. Here that is
a thread of its own, so migrations go on. What finds no room in the queue is lost, counted, and told of in its place:
lines are never reordered, and a gap is never silent.

It knows bytes and lines, nothing of levels or fields: :mod:`proxyd.journal` formats.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

# Lines that wait: the story of some thousand migrations. A line with the changes of a vCPU has 300 bytes.
MAX_QUEUED_BYTES: Final = 4 << 20

# How long the end of the process waits for lines to be taken. The service manager waits for the process.
FLUSH_S: Final = 2.0

# Up to this many bytes a pipe takes whole or not at all (POSIX: PIPE_BUF), so other writers do not cut into a line.
_WHOLE_BYTES: Final = select.PIPE_BUF


class LineWriter:
    """Writes lines to ``descriptor`` from a thread of its own.

    ``notice`` makes the line that stands where a number of lines are missing; ``tell_lost`` is called with a number
    whenever so many lines were lost, from any thread.
    """

    def __init__(self, descriptor: int, *, max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self.notice: Callable[[int], str] = "{} lines were lost\n".format
        self.tell_lost: Callable[[int], object] = lambda _count: None
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._bytes = 0  # of lines that are queued or being written
        self._missing = 0  # lost since the last line of the queue
        self._closing = False
        self._changed = threading.Condition()
        # A daemon: the end of the process must not wait for a reader that never comes back.
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def put(self, text: str) -> None:
        """Queue a line, or several that belong together; ends with a newline. Never waits for the reader."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            # Once one is missing, so are all that follow until the queue is taken up: a gap is in one place.
            fits = not self._missing and not self._closing and self._bytes + len(line) <= self._max_bytes
            if fits:
                self._lines.append(line)
                self._bytes += len(line)
                self._changed.notify()
            else:
                self._missing += 1
        if not fits:
            self.tell_lost(1)

    def close(self, seconds: float = FLUSH_S) -> None:
        """Take no more lines, and wait up to ``seconds`` until those that are queued were written."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._missing and not self._closing:
                    self._changed.wait()
                lines, self._lines = self._lines, deque()
                missing, self._missing = self._missing, 0
                if self._closing and not lines and not missing:
                    return
            self._write_lines(lines)
            if missing:
                self._write_whole(self.notice(missing).encode(errors="backslashreplace"), lines=0)

    def _write_lines(self, lines: deque[bytes]) -> None:
        piece: list[bytes] = []
        size = 0
        while lines:
            line = lines.popleft()
            if piece and size + len(line) > _WHOLE_BYTES:
                self._write_piece(piece, size)
                piece, size = [], 0
            piece.append(line)
            size += len(line)
        if piece:
            self._write_piece(piece, size)

    def _write_piece(self, piece: list[bytes], size: int) -> None:
        self._write_whole(b"".join(piece), lines=len(piece))
        with self._changed:
            self._bytes -= size

    def _write_whole(self, data: bytes, *, lines: int) -> None:
        """Write all of it. A reader that is gone costs these lines; the next ones are tried again."""
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:
                    # Somebody who shares standard error has made it non-blocking.
                    poll = select.poll()
                    poll.register(self._descriptor, select.POLLOUT)
                    poll.poll()
        except OSError:
            # EPIPE: the journal has died. There is nobody to be told but the metric.
            if lines:
                self.tell_lost(lines)
