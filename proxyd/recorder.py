"""The flight recorder: device state before and after, on disk, within bounds, and never in a migration's way.

What a recording is, :mod:`proxyd.rewrite.recording` says; ``proxyd replay`` reads it. It is written after the device
state has left, by a thread, under a name that is complete or not there.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from proxyd.config import RecorderConfig
from proxyd.rewrite.recording import SUFFIX, Recorded


class Recorder:
    """A directory of recordings.

    :param directory: made, for this user alone, where it is not there.
    """

    def __init__(self, config: RecorderConfig, directory: Path) -> None:
        self._config = config
        self._directory = directory

    def write(self, recorded: Recorded) -> None:
        """Write one, and remove the oldest where there are too many. Blocks. Raises :class:`OSError`."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = recorded.to_bytes()
        if len(data) > self._config.max_bytes:
            raise OSError(0, f"at most {self._config.max_bytes} bytes expected (recorder.max_bytes), found {len(data)}")
        self._make_room(len(data))
        facts = recorded.facts
        name = f"{facts.time.replace(':', '')}-{facts.migration}{SUFFIX}"
        partial = self._directory / f".{name}.partial"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            partial.rename(self._directory / name)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise

    def _make_room(self, size: int) -> None:
        """Names begin with the time, so the first are the oldest."""
        present = sorted(self._directory.glob(f"*{SUFFIX}"))
        sizes = [path.stat().st_size for path in present]
        total = sum(sizes) + size
        for number, (path, one) in enumerate(zip(present, sizes, strict=True)):
            if total <= self._config.max_bytes and len(present) - number < self._config.max_recordings:
                return
            path.unlink()
            total -= one
