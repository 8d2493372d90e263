"""A leg is a trio stream: trio's own suite says so. The rest is about queues, resets and many buffers."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import termios
from contextlib import suppress

import pytest
import trio
from trio.testing import check_half_closeable_stream, wait_all_tasks_blocked

from proxyd.relay import transport
from proxyd.relay.transport import RECEIVE_QUEUE_BYTES, UNSENT_BYTES, BulkStream, bound_receive_queue, hung_up

# What include/net/tcp.h and the sizes of segments allow beyond the bounds that were asked for.
SLACK = 1 << 20


async def pair() -> tuple[BulkStream, BulkStream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    bound_receive_queue(listener.socket)
    async with listener:
        connected = await trio.open_tcp_stream(*listener.socket.getsockname())
        return BulkStream.take(connected), BulkStream.take(await listener.accept())


async def fill(stream: BulkStream) -> None:
    """Send until both queues are full, the kernel has moved what it can from ours to theirs, and nothing fits."""
    moved = True
    while moved:
        moved = False
        with suppress(BlockingIOError):
            while stream._socket.send(bytes(64 << 10)):
                moved = True
        await wait_all_tasks_blocked(cushion=0.05)


async def clogged_pair() -> tuple[BulkStream, BulkStream]:
    ours, theirs = await pair()
    await fill(ours)
    await fill(theirs)
    return ours, theirs


async def read_all(stream: BulkStream) -> bytes:
    out = bytearray()
    while chunk := await stream.receive_some():
        out += chunk
    return bytes(out)


async def test_is_a_half_closeable_stream() -> None:
    await check_half_closeable_stream(pair, clogged_pair)


async def test_buffers_arrive_in_order_however_many_and_however_slowly_they_are_read() -> None:
    ours, theirs = await pair()
    small = [struct.pack(">I", i) for i in range(2000)]
    big = [memoryview(bytes([i]) * (1 << 20)) for i in range(8)]
    buffers = [*small, b"", *big, bytearray(b"end")]

    async def send() -> None:
        await ours.send_buffers(buffers)
        await ours.send_eof()

    async with ours, theirs, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()  # the sender waits for room
        received = await read_all(theirs)
    assert received == b"".join(buffers)


async def test_a_chunk_is_at_most_what_was_asked_for() -> None:
    ours, theirs = await pair()
    async with ours, theirs:
        await ours.send_all(b"QEVM")
        with pytest.raises(ValueError, match="max_bytes of at least 1 expected, found 0"):
            await theirs.receive_some(0)
        assert await theirs.receive_some(3) == b"QEV"
        assert await theirs.receive_some() == b"M"


async def test_a_chunk_is_used_again_once_nobody_looks_at_it_and_not_before() -> None:
    ours, theirs = await pair()
    async with ours, theirs:
        await ours.send_all(b"QEVM")
        kept = await theirs.receive_chunk()
        assert kept == b"QEVM"
        first = theirs._buffer
        header = kept[:2]
        del kept
        await ours.send_all(b"\x00\x00\x00\x03")
        assert await theirs.receive_chunk() == b"\x00\x00\x00\x03"
        assert header == b"QE"
        second = theirs._buffer
        assert second is not first
        await ours.send_eof()
        assert not await theirs.receive_chunk()
        assert theirs._buffer is second


async def test_what_waits_in_the_proxy_is_bounded() -> None:
    """A source that sends faster than the destination takes is stopped by the bounds, not by memory."""
    source, our_source = await pair()
    our_destination, destination = await pair()
    await fill(source)
    queued = struct.unpack("i", fcntl.ioctl(our_source._socket, termios.FIONREAD, b"\0\0\0\0"))[0]
    assert 0 < queued <= 2 * RECEIVE_QUEUE_BYTES
    await fill(our_destination)
    outgoing = struct.unpack("i", fcntl.ioctl(our_destination._socket, 0x894B, b"\0\0\0\0"))[0]  # SIOCOUTQNSD
    assert outgoing <= UNSENT_BYTES + SLACK
    for stream in (source, our_source, our_destination, destination):
        stream.abort()


async def test_a_bound_that_the_system_does_not_allow_leaves_autotuning_on() -> None:
    with socket.socket() as sock:
        before = sock.getsockopt(socket.SOL_SOCKET, 72)
        assert not bound_receive_queue(sock, 1 << 29)
        assert sock.getsockopt(socket.SOL_SOCKET, 72) == before == 0
        assert bound_receive_queue(sock, 64 << 10)
        assert sock.getsockopt(socket.SOL_SOCKET, 72) != 0


async def test_abort_is_a_reset_and_close_is_an_end() -> None:
    ours, theirs = await pair()
    ours.abort()
    async with theirs:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await theirs.receive_some()
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    assert caught.value.__cause__.errno == errno.ECONNRESET
    ours.abort()  # again: nothing

    ours, theirs = await pair()
    async with theirs:
        await ours.aclose()
        assert await theirs.receive_some() == b""


async def test_abort_wakes_the_task_that_receives() -> None:
    ours, theirs = await pair()
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ours.receive_some()

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await ours.receive_some()
        ours.abort()
    await theirs.aclose()


async def test_sending_to_a_peer_that_reset_breaks() -> None:
    ours, theirs = await pair()
    theirs.abort()
    async with ours:
        with pytest.raises(trio.BrokenResourceError, match="connection broken: "):
            await ours.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_eof()


async def test_names_both_ends() -> None:
    ours, theirs = await pair()
    async with ours, theirs:
        assert ours.getpeername() == theirs.getsockname()
        assert theirs.getpeername() == ours.getsockname()


async def test_the_queue_of_a_connected_socket_can_be_bounded_too() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        connected = await trio.open_tcp_stream(*listener.socket.getsockname())
        async with await listener.accept(), BulkStream.take(connected, receive_queue_bytes=64 << 10) as stream:
            assert stream._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 128 << 10


async def test_a_socket_that_cannot_be_tuned_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = socket.socketpair()
    fileno = left.fileno()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(left))

    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")  # as of a TCP socket whose peer is gone

    monkeypatch.setattr(transport, "bound_receive_queue", refuse)
    with right, pytest.raises(OSError):
        BulkStream.take(stream, receive_queue_bytes=1)
    with pytest.raises(OSError):
        socket.socket(fileno=fileno)


async def test_who_has_hung_up_is_seen_behind_unread_bytes() -> None:
    ours, theirs = await pair()
    await theirs.send_all(b"pages")
    assert not hung_up(ours._socket, fin=True)
    await theirs.send_eof()
    await wait_all_tasks_blocked(cushion=0.05)
    assert hung_up(ours._socket, fin=True)
    assert not hung_up(ours._socket, fin=False), "it may have sent everything"
    theirs.abort()
    await wait_all_tasks_blocked(cushion=0.05)
    assert hung_up(ours._socket, fin=False)
    ours.abort()
    assert hung_up(ours._socket, fin=False), "closed here"
