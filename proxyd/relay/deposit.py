"""What was released and is not all with the destination's socket yet.

In this process's memory, or in a file without a name (``memfd_create(2)``), whose position says how much the kernel has
taken. A file that the service manager holds as well is there for the process that comes after this one, and its
position is right at whatever instruction this one was killed: ``sendfile(2)`` moves it together with the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Protocol

from proxyd.relay.channel import Leg, SocketLeg
from proxyd.relay.transport import Buffer

FILE_NAME: Final = "proxyd-deposit"


class Deposit(Protocol):
    """Bytes for one leg, in order."""

    async def send(self, leg: Leg, most: int | None = None) -> int:
        """Send what is left of it, or its next ``most`` bytes. Returns how many. Raises what the leg raises."""

    def close(self) -> None:
        """Forget what is left."""


class MemoryDeposit:
    """Bytes that end with this process."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._views = [memoryview(buffer) for buffer in buffers if len(buffer)]

    async def send(self, leg: Leg, most: int | None = None) -> int:
        """See :class:`Deposit`."""
        views = self._views if most is None else self._first(most)
        size = sum(view.nbytes for view in views)
        if views is self._views:
            self._views = []
        await leg.send_buffers(views)
        return size

    def _first(self, most: int) -> list[memoryview]:
        first = []
        while self._views and most:
            view = self._views.pop(0)
            if view.nbytes > most:
                self._views.insert(0, view[most:])
                view = view[:most]
            first.append(view)
            most -= view.nbytes
        return first

    def close(self) -> None:
        """See :class:`Deposit`."""
        self._views = []


class FileDeposit:
    """Bytes in a file of the kernel's memory; takes over the file descriptor ``file``."""

    def __init__(self, file: int) -> None:
        self.file = file

    @classmethod
    def of(cls, buffers: Sequence[Buffer]) -> FileDeposit:
        """A new one.

        :raises OSError: there is no memory or no file descriptor left.
        """
        file = os.memfd_create(FILE_NAME, os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(file), "wb") as writer:
                writer.writelines(buffers)
            os.lseek(file, 0, os.SEEK_SET)
        except BaseException:
            os.close(file)
            raise
        return cls(file)

    @property
    def left(self) -> int:
        """Bytes that were not sent."""
        return max(0, os.fstat(self.file).st_size - os.lseek(self.file, 0, os.SEEK_CUR))

    async def send(self, leg: Leg, most: int | None = None) -> int:
        """See :class:`Deposit`. Only to a plain socket."""
        assert isinstance(leg, SocketLeg), "only plain sockets take files"  # noqa: S101
        sent = await leg.send_file(self.file, self.left if most is None else most)
        if most is None:
            # A postcopy can go on for hours, and nobody needs the device state again. The position stays where it is.
            os.ftruncate(self.file, 0)
        return sent

    def close(self) -> None:
        """See :class:`Deposit`."""
        os.close(self.file)
