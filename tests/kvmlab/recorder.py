"""A relay that keeps what the source sends: how the streams in tests/streams with a return path were made."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio


@dataclass(slots=True)
class Recording:
    """The port to migrate to, and the bytes from the source so far."""

    port: int = 0
    stream: bytearray = field(default_factory=bytearray)


@asynccontextmanager
async def recording_relay(destination_port: int) -> AsyncIterator[Recording]:
    """Relay one connection to 127.0.0.1:*destination_port*, both ways, until the block ends."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    recording = Recording(port=listener.socket.getsockname()[1])

    async def relay() -> None:
        async with (
            listener,
            await listener.accept() as source,  # dial only then: QEMU takes an idle connection for a migration
            await trio.open_tcp_stream("127.0.0.1", destination_port) as destination,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_pump, source, destination, recording.stream)
            nursery.start_soon(_pump, destination, source, bytearray())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay)
        yield recording
        nursery.cancel_scope.cancel()


async def _pump(source: trio.SocketStream, destination: trio.SocketStream, copy: bytearray) -> None:
    """Forward until the end of *source*, then pass the end on; a broken connection is an end too."""
    try:
        async for chunk in source:
            copy += chunk
            await destination.send_all(chunk)
        await destination.send_eof()
    except trio.BrokenResourceError:
        return
