"""The stand-in for the source ends a migration as QEMU would, by what the return path says."""

from __future__ import annotations

import trio

from proxyd.demo import source

SHUT_0 = b"\x00\x01\x00\x04\x00\x00\x00\x00"
SHUT_1 = b"\x00\x01\x00\x04\x00\x00\x00\x01"
PONG = b"\x00\x02\x00\x04\x00\x00\x00\x01"
STREAM = bytes(range(256)) * 1024


async def migrate_to(answers: list[bytes], *, read: int = len(STREAM)) -> tuple[source.Result, bytes]:
    """Migrate to a peer that reads so many bytes, answers, and closes."""
    received = bytearray()

    async def peer(channel: trio.SocketStream) -> None:
        async with channel:
            while len(received) < read:
                received.extend(await channel.receive_some())
            for answer in answers:
                await channel.send_all(answer)
        done.set()

    done = trio.Event()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, peer, [listener])
        with trio.fail_after(30):
            result = await source.migrate(STREAM, listener.socket.getsockname()[1])
            await done.wait()
        nursery.cancel_scope.cancel()
    return result, bytes(received)


async def test_shut_0_completes() -> None:
    result, received = await migrate_to([PONG, SHUT_0])
    assert result == source.Result("completed")
    assert not result.guest_resumed
    assert received == STREAM


async def test_shut_1_fails_and_the_guest_resumes() -> None:
    result, _ = await migrate_to([SHUT_1])
    assert result == source.Result("failed", "Sibling indicated error 1")
    assert result.guest_resumed


async def test_a_message_in_pieces_is_put_together() -> None:
    result, _ = await migrate_to([(PONG + SHUT_0)[i : i + 3] for i in range(0, 16, 3)])
    assert result == source.Result("completed")


async def test_a_close_without_a_word_fails() -> None:
    result, _ = await migrate_to([PONG])
    assert result == source.Result("failed", "the destination closed the return path without a word")


async def test_a_reset_fails() -> None:
    result, _ = await migrate_to([], read=1)
    assert result.status == "failed"


async def test_a_reset_is_told_apart_from_a_close() -> None:
    class Reset(trio.abc.ReceiveStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    assert await source._return_path(Reset()) == source.Result(
        "failed", "Unable to read from the return path: Connection reset by peer"
    )


async def test_a_destination_that_fails_early_is_believed_while_bytes_are_still_on_their_way() -> None:
    async def peer(channel: trio.SocketStream) -> None:
        async with channel:
            await channel.receive_some(1)
            await channel.send_all(SHUT_1)
            await gone.wait()

    gone = trio.Event()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, peer, [listener])
        with trio.fail_after(30):
            # More than the socket buffers hold, so that the sender is stuck when the answer comes.
            result = await source.migrate(bytes(64 << 20), listener.socket.getsockname()[1])
        gone.set()
        nursery.cancel_scope.cancel()
    assert result == source.Result("failed", "Sibling indicated error 1")
