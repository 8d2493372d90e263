"""A source and a destination that do no more work than they must, each in a process of its own.

The stream is legal to the last byte (prologue with a return path, RAM sections, the device part of a recorded
stream), built with struct: the parser is what is measured here, so nothing of it builds the load.
"""

from __future__ import annotations

import multiprocessing
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random
from typing import Any

from tests import builders
from tests.bench.recorded_tail import device_part

SHUT_0 = struct.pack(">HHI", 1, 4, 0)
RAM_ID = 2
BLOCK_PAGES = 1024
BLOCKS_PER_PART = 16
SECONDS = 300

# Not "fork": the test runner has a thread of its own.
_spawned = multiprocessing.get_context("spawn")


def pages(count: int = BLOCK_PAGES) -> bytes:
    """``count`` PAGE|CONTINUE records of bytes that do not compress."""
    random = Random(7)
    bodies = [random.randbytes(builders.PAGE) for _ in range(64)]
    return b"".join(builders.page(i * builders.PAGE, bodies[i % 64]) for i in range(count))


def zero_pages(count: int = BLOCK_PAGES) -> bytes:
    """``count`` ZERO|CONTINUE records."""
    return b"".join(builders.zero_page(i * builders.PAGE) for i in range(count))


def mixed_pages(count: int = BLOCK_PAGES) -> bytes:
    """Full and zero pages in runs of one to sixteen, half of each on the average."""
    random = Random(11)
    body = random.randbytes(builders.PAGE)
    out: list[bytes] = []
    while len(out) < count:
        run = random.randint(1, 16)
        full = random.random() < 0.5
        for _ in range(min(run, count - len(out))):
            offset = len(out) * builders.PAGE
            out.append(builders.page(offset, body) if full else builders.zero_page(offset))
    return b"".join(out)


@dataclass(frozen=True)
class Stream:
    """A stream as a sequence of buffers that are sent one after the other, most of them the same one."""

    prologue: bytes
    block: bytes
    blocks: int
    tail: bytes

    def __iter__(self) -> Iterator[bytes]:
        yield self.prologue
        named = builders.page(0, block=b"mach-virt.ram")
        for first in range(0, self.blocks, BLOCKS_PER_PART):
            yield b"\x02" + builders.be32(RAM_ID) + named
            for _ in range(min(BLOCKS_PER_PART, self.blocks - first)):
                yield self.block
            yield builders.EOS + builders.footer(RAM_ID)
        yield builders.end(RAM_ID, builders.EOS)
        yield self.tail

    @property
    def bytes(self) -> int:
        return sum(map(len, self))


def stream(size: int, tail: bytes | None = None) -> Stream:
    """A stream of about ``size`` bytes with full pages."""
    block = pages()
    setup = builders.mem_size({b"mach-virt.ram": BLOCK_PAGES * builders.PAGE}) + builders.EOS
    prologue = builders.MAGIC + builders.configuration() + builders.OPEN_RETURN_PATH + builders.PING
    return Stream(
        prologue + builders.start(RAM_ID, setup),
        block,
        max(1, round(size / len(block))),
        device_part(4).bytes if tail is None else tail,
    )


@dataclass(frozen=True)
class Arrival:
    """What the destination saw: seconds of CLOCK_MONOTONIC."""

    first: float
    last: float
    bytes: int


class Peer:
    """A process of ours at one end of a proxy."""

    def __init__(self, target: Any, *arguments: Any) -> None:
        self._ours, theirs = _spawned.Pipe()
        self._process = _spawned.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def result(self) -> Any:
        """The next thing that it has to say."""
        if not self._ours.poll(SECONDS):
            raise AssertionError(f"nothing happened for {SECONDS} seconds")
        return self._ours.recv()

    def wait(self, seconds: float) -> bool:
        """Whether it has something to say within ``seconds``."""
        return self._ours.poll(seconds)

    def tell(self, what: Any) -> None:
        """Let it go on."""
        self._ours.send(what)

    def end(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.join()
        self._ours.close()


@contextmanager
def destination(
    listener: socket.socket, expected: int | None, rate: float | None = None, pki: str | None = None
) -> Iterator[Peer]:
    """Take ``expected`` bytes (None: until told), as fast as they come or at ``rate`` bytes a second.

    Its result is an :class:`Arrival`; told to, it then says SHUT(0) and closes. With ``pki``, a directory of
    certificates, it talks TLS.
    """
    peer = Peer(_destination, listener, expected, rate, pki)
    try:
        yield peer
    finally:
        peer.end()


def _destination(
    pipe: Connection, listener: socket.socket, expected: int | None, rate: float | None, pki: str | None
) -> None:
    connection, _ = listener.accept()
    listener.close()
    if pki is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{pki}/server-cert.pem", f"{pki}/server-key.pem")
        connection = context.wrap_socket(connection, server_side=True)
    buffer = bytearray(1 << 20 if rate is None else 1 << 18)
    received = connection.recv_into(buffer)
    first = last = time.monotonic()
    while received < expected if expected is not None else connection in select.select([connection, pipe], [], [])[0]:
        count = connection.recv_into(buffer)
        last = time.monotonic()
        if not count:
            break
        received += count
        if rate is not None:
            time.sleep(max(0.0, first + received / rate - time.monotonic()))
    pipe.send(Arrival(first, last, received))
    pipe.recv()
    if expected is None:
        pipe.recv()
    connection.sendall(SHUT_0)
    connection.close()


@contextmanager
def source(port: int, stream: Stream, held_back: int = 0, pki: str | None = None) -> Iterator[Peer]:
    """Send a stream; its results are when the last part of it went out, then what came back.

    With ``held_back``, that many bytes of the tail wait until it is told to go on.
    """
    peer = Peer(_source, port, stream, held_back, pki)
    try:
        yield peer
    finally:
        peer.end()


def _source(pipe: Connection, port: int, stream: Stream, held_back: int, pki: str | None) -> None:
    with _connection(port, pki) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        *before, tail = stream
        for buffer in before:
            connection.sendall(buffer)
        if held_back:
            connection.sendall(tail[: len(tail) - held_back])
            pipe.send("all but the last part is sent")
            pipe.recv()
        at = time.monotonic()
        connection.sendall(tail[len(tail) - held_back if held_back else 0 :])
        pipe.send(at)
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
        pipe.send(answer)


def _connection(port: int, pki: str | None) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port))
    if pki is None:
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(f"{pki}/ca-cert.pem")
    context.load_cert_chain(f"{pki}/client-cert.pem", f"{pki}/client-key.pem")
    return context.wrap_socket(plain, server_hostname="localhost")


def loopback_listener() -> socket.socket:
    """A listening socket on a port that the kernel chose."""
    return socket.create_server(("127.0.0.1", 0))
