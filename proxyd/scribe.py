"""A thread that writes files, so that no disk ever stops a migration.

Jobs are done one after the other, in the order in which they came. There is room for a few: a disk that is slower than
the migrations loses recordings and lines, and the journal says how many, but nothing waits for it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from proxyd.journal import Journal

# Each may hold a device state, 64 MiB at most and 1 MiB as a rule.
MAX_WAITING: Final = 64

# How long the end of the daemon waits for what is still to be written.
CLOSE_TIME_S: Final = 5.0

Job = Callable[[], None]


class Scribe:
    """Does what it is given, later; its thread begins with the first job.

    Error handling: an :class:`OSError` of a job is told in the journal, and the next job is done.
    """

    def __init__(self, journal: Journal) -> None:
        self.lost = 0
        self._journal = journal
        self._jobs: queue.Queue[tuple[str, Job] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    def submit(self, what: str, job: Job) -> bool:
        """Do ``job`` when its turn comes; ``what`` names it if it fails. Says whether there was room."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="scribe", daemon=True)
            self._thread.start()
        try:
            self._jobs.put_nowait((what, job))
        except queue.Full:
            self.lost += 1
            self._journal.error(f"{what}: lost, because the disk is too slow", lost=self.lost)
            return False
        return True

    def flush(self) -> None:
        """Return once everything that was submitted is done. For tests, and for the end."""
        done = threading.Event()
        if self.submit("flush", done.set):
            done.wait(CLOSE_TIME_S)

    def close(self) -> None:
        """Do what is left, within a limit, and end."""
        if self._thread is None:
            return
        self.flush()
        with suppress(queue.Full):
            self._jobs.put_nowait(None)
            self._thread.join(CLOSE_TIME_S)

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            what, job = entry
            try:
                job()
            except OSError as error:
                self._journal.error(f"{what}: cannot be written: {error.strerror or error}")
            except Exception as error:  # noqa: BLE001 - a bug here must not end the writing of everything else
                self._journal.error(f"{what}: a bug of proxyd's", exc_info=error)
