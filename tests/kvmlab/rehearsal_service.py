"""``proxyd rehearsal-service`` on an emulated host, a process for each connection, as a service manager starts it.

The host's archives must have proxyd (arm64_python.py). On a real host a daemon reaches the service by a UNIX socket;
here it listens on the host's port for such things, and :func:`forwarded_socket` is a UNIX socket in front of that.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from proxyd.rehearsal_protocol import Message, MessageReader, Prepare, Question, encode
from tests.kvmlab.arm64_python import COMMAND
from tests.kvmlab.catalogue import LabError
from tests.kvmlab.feed import time_limit
from tests.kvmlab.host import SERVICE_PORT, Host

ANSWER_SECONDS = 240
_LISTEN = f"""
nc -ll -p {SERVICE_PORT} -e {COMMAND} rehearsal-service >/dev/null 2>&1 &
until grep -q ':{SERVICE_PORT:04X} ' /proc/net/tcp /proc/net/tcp6 2>/dev/null; do usleep 20000; done
"""

Ask = Callable[[Question], Awaitable[Message]]


async def start_service(host: Host) -> None:
    """Let the service listen on *host*, and answer once: the first process compiles Python's modules."""
    await host.run(_LISTEN)
    async with connection(host) as ask:
        await ask(Prepare())


@asynccontextmanager
async def connection(host: Host) -> AsyncIterator[Ask]:
    """Connect as a daemon would; what is yielded asks one question and returns its answer, or raises LabError."""
    async with await trio.open_tcp_stream("127.0.0.1", host.service_port) as stream:
        reader = MessageReader()

        async def ask(question: Question) -> Message:
            with time_limit(ANSWER_SECONDS, f"host {host.release}: an answer to {type(question).__name__}"):
                await stream.send_all(encode(question))
                async for chunk in stream:
                    for message in reader.feed(chunk):
                        return message
            raise LabError(f"host {host.release}: the rehearsal service ended without an answer")

        yield ask


@asynccontextmanager
async def forwarded_socket(host: Host, path: Path) -> AsyncIterator[Path]:
    """A UNIX socket at *path*, each connection to which is one to the service on *host*."""
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()

    async def forward(connected: trio.SocketStream) -> None:
        service = await trio.open_tcp_stream("127.0.0.1", host.service_port)
        async with connected, service, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, connected, service, nursery)
            nursery.start_soon(_copy, service, connected, nursery)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, forward, [trio.SocketListener(listener)])
        yield path
        nursery.cancel_scope.cancel()
    path.unlink()


async def _copy(source: trio.SocketStream, destination: trio.SocketStream, both: trio.Nursery) -> None:
    """Until one of them ends; then both do, as with the real socket."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for chunk in source:
            await destination.send_all(chunk)
    both.cancel_scope.cancel()
