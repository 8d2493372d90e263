"""Messages and file descriptors between a proxyd and the one that takes its place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from proxyd.upgrade_link import (
    MAX_DESCRIPTORS,
    VARIABLE,
    Kind,
    Link,
    LinkBroken,
    Message,
    TemporaryRoute,
    link_from_environment,
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield one, other


async def test_a_message_arrives_whole_with_its_descriptors(ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = (Link(end) for end in ends)
    route = TemporaryRoute({"name": "x"}, "control", once=True, expires_s=1.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sent = Message(Kind.ROUTE, key="a key", keys=("b", "c"), reason="a reason", route=route)
        await one.send(sent, [listening.fileno()] * MAX_DESCRIPTORS)
        message, sockets = await other.receive()
        assert message == sent
        assert {sock.getsockname() for sock in sockets} == {listening.getsockname()}
        assert len(sockets) == MAX_DESCRIPTORS
        assert not any(sock.get_inheritable() for sock in sockets)
        for sock in sockets:
            sock.close()


async def test_a_full_link_is_waited_for_and_keeps_the_order(ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = (Link(end) for end in ends)
    count = 2000
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            for number in range(count):
                await one.send(Message(Kind.CONNECTION, key=str(number)))

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert [(await other.receive())[0].key for _ in range(count)] == [str(number) for number in range(count)]


async def test_the_end_of_the_other_process(ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = (Link(end) for end in ends)
    other.send_now(Message(Kind.REFUSED, reason="said before"))
    await one.send(Message(Kind.OPEN))  # which is never read
    other.close()
    other.close()
    assert (await one.receive())[0].reason == "said before"
    with pytest.raises(LinkBroken, match="the other process has ended"):
        await one.receive()
    with pytest.raises(LinkBroken, match="the other process has gone: Broken pipe"):
        await one.send(Message(Kind.OPEN))
    one.send_now(Message(Kind.OPEN))


async def test_a_closed_link_receives_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    one = Link(ends[0])
    one.close()
    with pytest.raises(LinkBroken, match="Bad file descriptor"):
        await one.receive()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{}", "a message of another proxyd expected, found"),
        (msgspec.json.encode({"version": 2, "message": {"kind": "open"}}), "version 1 .* expected, found 2"),
        (msgspec.json.encode({"version": 1, "message": {"kind": "dance"}}), "a message of another proxyd expected"),
    ],
)
async def test_what_is_no_message(ends: tuple[socket.socket, socket.socket], data: bytes, reason: str) -> None:
    one = Link(ends[0])
    ends[1].send(data)
    with pytest.raises(LinkBroken, match=reason):
        await one.receive()


async def test_what_a_newer_version_adds_is_ignored(ends: tuple[socket.socket, socket.socket]) -> None:
    one = Link(ends[0])
    ends[1].send(msgspec.json.encode({"version": 1, "message": {"kind": "open", "more": 1}, "else": 2}))
    assert (await one.receive())[0] == Message(Kind.OPEN)


def test_the_environment_says_where_it_is(ends: tuple[socket.socket, socket.socket]) -> None:
    os.set_inheritable(ends[0].fileno(), True)
    environment = {VARIABLE: str(ends[0].fileno())}
    link = link_from_environment(environment)
    assert link is not None
    assert link.fileno() == ends[0].detach()
    assert not os.get_inheritable(link.fileno())
    assert environment == {}
    link._socket.close()
    assert link_from_environment({}) is None
    assert link_from_environment({VARIABLE: "x"}) is None
