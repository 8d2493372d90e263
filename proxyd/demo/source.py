"""A stand-in for the source's QEMU: plays a recorded stream, and believes only the return path.

As QEMU does (``migration/migration.c: migration_completion`` and ``source_return_path_thread``), it calls the migration
complete when the destination says SHUT(0), and resumes its guest in every other case.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import trio

_MSG_SHUT: Final = 1
_CHUNK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Result:
    """How the migration ended, as query-migrate would say it."""

    status: str
    error: str | None = None

    @property
    def guest_resumed(self) -> bool:
        """Whether the guest runs on the source again."""
        return self.status == "failed"


async def migrate(stream: bytes, port: int) -> Result:
    """``migrate -d tcp:127.0.0.1:port`` with the return-path capability."""
    channel = await trio.open_tcp_stream("127.0.0.1", port)
    async with channel, trio.open_nursery() as nursery:
        nursery.start_soon(_send, channel, stream)
        result = await _return_path(channel)
        nursery.cancel_scope.cancel()
    return result


async def _send(channel: trio.abc.SendStream, stream: bytes) -> None:
    view = memoryview(stream)
    try:
        for start in range(0, len(view), _CHUNK):
            await channel.send_all(view[start : start + _CHUNK])
    except trio.BrokenResourceError:
        pass  # the return path tells how it ended


async def _return_path(channel: trio.abc.ReceiveStream) -> Result:
    buffer = b""
    try:
        while chunk := await channel.receive_some():
            buffer += chunk
            while len(buffer) >= 4:
                kind, length = struct.unpack_from(">HH", buffer)
                if len(buffer) < 4 + length:
                    break
                data, buffer = buffer[4 : 4 + length], buffer[4 + length :]
                if kind == _MSG_SHUT:
                    error = int.from_bytes(data, "big")
                    return Result("failed", f"Sibling indicated error {error}") if error else Result("completed")
    except trio.BrokenResourceError:
        return Result("failed", "Unable to read from the return path: Connection reset by peer")
    return Result("failed", "the destination closed the return path without a word")
