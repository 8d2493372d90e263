"""The new process's side of an upgrade, with an old process that is played."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from proxyd.endpoint import Address
from proxyd.predecessor import Predecessor
from proxyd.upgrade_link import VARIABLE, Kind, Link, LinkBroken, Message, TemporaryRoute


@pytest.fixture
def ends() -> Iterator[tuple[Link, Predecessor]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield Link(one), Predecessor(Link(other))


ROUTE = TemporaryRoute({"name": "x"}, "control", once=False, expires_s=None)


async def test_what_is_inherited(ends: tuple[Link, Predecessor]) -> None:
    old, predecessor = ends
    with socket.create_server(("127.0.0.1", 0)) as lab, socket.create_server(("127.0.0.1", 0)) as unit:
        await old.send(Message(Kind.SOCKETS, key="lab"), [lab.fileno()])
        await old.send(Message(Kind.SOCKETS, key="lab"), [lab.fileno()])
        await old.send(Message(Kind.SOCKETS, key="gone"), [lab.fileno()])
        await old.send(Message(Kind.SOCKETS, key="inherited migration"), [unit.fileno()])
        await old.send(Message(Kind.ROUTE, route=ROUTE))
        await old.send(Message(Kind.OPEN))
        inheritance = await predecessor.inherit()
        assert inheritance.routes == (ROUTE,)
        (passed,) = inheritance.inherited.open("migration")
        assert passed.getsockname() == unit.getsockname()
        passed.close()
        for descriptor in inheritance.inherited.descriptors["migration"]:
            os.close(descriptor)
        endpoint = Address("127.0.0.1", 0)
        adopted = inheritance.sockets.adopt("lab", endpoint)
        assert adopted is not None
        assert adopted.endpoint == Address(*lab.getsockname())
        assert len(adopted.listeners) == 2
        assert inheritance.sockets.adopt("lab", endpoint) is None
        assert inheritance.sockets.taken == ["lab"]
        adopted.close()
        inheritance.sockets.close()
        inheritance.sockets.close()


async def test_it_is_ready_and_serves_and_takes_connections_until_it_accepts(ends: tuple[Link, Predecessor]) -> None:
    old, predecessor = ends
    await old.send(Message(Kind.SERVE))
    await predecessor.ready(("lab",))
    assert (await old.receive())[0] == Message(Kind.READY, keys=("lab",))
    await predecessor.serving()
    assert (await old.receive())[0].kind is Kind.SERVING
    begun: list[str] = []

    def begin(key: str, sock: socket.socket) -> None:
        begun.append(key)
        sock.close()

    with socket.socket() as one:
        for key in ("a", "b"):
            await old.send(Message(Kind.CONNECTION, key=key), [one.fileno()])
        await old.send(Message(Kind.ACCEPT))
        await predecessor.take(begin)
    assert begun == ["a", "b"]


async def test_an_old_process_that_dies(ends: tuple[Link, Predecessor]) -> None:
    old, predecessor = ends
    await old.send(Message(Kind.SERVE))
    await predecessor.ready(())
    old.close()
    await predecessor.serving()
    await predecessor.take(lambda _key, _sock: None)


async def test_an_old_process_that_stays(ends: tuple[Link, Predecessor]) -> None:
    old, predecessor = ends
    old.close()
    with pytest.raises(LinkBroken):
        await predecessor.inherit()
    with pytest.raises(LinkBroken):
        await predecessor.ready(())


async def test_it_says_why_not(ends: tuple[Link, Predecessor]) -> None:
    old, predecessor = ends
    predecessor.refuse("the moon is full")
    assert (await old.receive())[0] == Message(Kind.REFUSED, reason="the moon is full")


def test_a_process_that_was_started_by_nobody() -> None:
    assert Predecessor.from_environment({}) is None
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one:
        descriptor = other.detach()
        predecessor = Predecessor.from_environment({VARIABLE: str(descriptor)})
        assert predecessor is not None
        predecessor._link._socket.close()
