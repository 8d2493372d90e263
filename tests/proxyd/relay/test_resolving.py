"""Lookups that hang, and those that go on beside them."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from proxyd.relay import resolving
from proxyd.relay.resolving import MAX_LOOKUPS, MAX_PER_NAME, Resolver

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 4444))]


class Nameserver:
    """Answers no name that begins with ``dead`` until it is told to."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.back = threading.Event()

    def getaddrinfo(self, host: str, port: int, **given: Any) -> list[Any]:
        if "flags" in given:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        self.asked[host] += 1
        if host.startswith("dead"):
            self.back.wait(30)
        if host == "nowhere.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return FOUND


@pytest.fixture
def nameserver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nameserver]:
    nameserver = Nameserver()
    monkeypatch.setattr(resolving.socket, "getaddrinfo", nameserver.getaddrinfo)
    yield nameserver
    nameserver.back.set()


async def test_an_address_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a thread for an address")

    monkeypatch.setattr(trio.to_thread, "run_sync", forbidden)
    assert [found[4] for found in await Resolver().look_up("127.0.0.1", 5)] == [("127.0.0.1", 5)]
    assert [found[4][0] for found in await Resolver().look_up("::1", 5)] == ["::1"]


async def test_a_name_resolves_or_does_not(nameserver: Nameserver) -> None:
    resolver = Resolver()
    assert await resolver.look_up("there.example", 4444) == FOUND
    with pytest.raises(OSError, match="not known"):
        await resolver.look_up("nowhere.example", 4444)
    assert resolver._names == {}


async def test_names_that_hang_stop_neither_other_names_nor_other_work(nameserver: Nameserver) -> None:
    resolver = Resolver()
    gave_up = 0

    async def hang() -> None:
        nonlocal gave_up
        with trio.move_on_after(0.5) as scope:
            await resolver.look_up("dead.example", 4444)
        gave_up += scope.cancelled_caught

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(hang)
            await wait_all_tasks_blocked(0.01)
            assert await resolver.look_up("there.example", 4444) == FOUND
            assert await trio.to_thread.run_sync(lambda: 5) == 5
        assert gave_up == 60
        assert nameserver.asked["dead.example"] == MAX_PER_NAME
        assert await resolver.look_up("there.example", 4444) == FOUND, "their threads still hang"
        nameserver.back.set()
        assert await resolver.look_up("dead.example", 4444) == FOUND
        while resolver._names:
            await trio.sleep(0.001)


async def test_the_threads_of_all_names_are_bounded(nameserver: Nameserver) -> None:
    resolver = Resolver()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for n in range(2 * MAX_LOOKUPS):
                nursery.start_soon(resolver.look_up, f"dead{n}.example", 4444)
            while sum(nameserver.asked.values()) < MAX_LOOKUPS:
                await trio.sleep(0.001)
            await wait_all_tasks_blocked(0.01)
            assert sum(nameserver.asked.values()) == MAX_LOOKUPS
            with trio.move_on_after(0.01) as scope:
                await resolver.look_up("there.example", 4444)
            assert scope.cancelled_caught
            assert "there.example" not in resolver._names
            nameserver.back.set()
        assert sum(nameserver.asked.values()) == 2 * MAX_LOOKUPS
