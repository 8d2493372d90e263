"""Descriptors given to a service manager, which a socket of the test's plays."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proxyd.descriptor_store import ServiceManagerStore


class Manager:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.bind(str(path))

    def hears(self) -> tuple[str, int]:
        """The next message, and how many descriptors came with it."""
        message, descriptors, _, _ = socket.recv_fds(self.sock, 4096, 300)
        for descriptor in descriptors:
            os.close(descriptor)
        return message.decode(), len(descriptors)

    def hears_all(self) -> list[str]:
        heard = []
        while True:
            try:
                heard.append(self.hears()[0])
            except BlockingIOError:
                return heard


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    one = Manager(tmp_path / "notify")
    yield one
    one.sock.close()


def store_of(manager: Manager) -> ServiceManagerStore:
    store = ServiceManagerStore.from_environment({"NOTIFY_SOCKET": str(manager.path)})
    assert store is not None
    return store


def deaf(manager: Manager) -> None:
    """Fill its queue, as a manager does that does not read."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(str(manager.path))
        with suppress(BlockingIOError):
            while True:
                sock.send(b"STATUS=x")


async def test_descriptors_are_kept_and_forgotten(manager: Manager) -> None:
    store = store_of(manager)
    reader, writer = os.pipe()
    assert await store.keep("migration-1", [reader, writer])
    assert manager.hears() == ("FDSTORE=1\nFDNAME=migration-1\nFDPOLL=0", 2)
    store.forget("migration-1")
    assert manager.hears() == ("FDSTOREREMOVE=1\nFDNAME=migration-1", 0)
    os.close(reader)
    os.close(writer)


async def test_more_than_one_message_takes(manager: Manager) -> None:
    descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(260)]
    assert await store_of(manager).keep("migration-1", descriptors)
    assert [manager.hears()[1], manager.hears()[1]] == [250, 10]
    for descriptor in descriptors:
        os.close(descriptor)


def test_outside_a_service_there_is_none() -> None:
    assert ServiceManagerStore.from_environment({}) is None


async def test_the_abstract_namespace() -> None:
    name = f"proxyd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        store = ServiceManagerStore.from_environment({"NOTIFY_SOCKET": "@" + name})
        assert store is not None
        store.forget("migration-1")
        assert sock.recv(99) == b"FDSTOREREMOVE=1\nFDNAME=migration-1"


async def test_a_manager_that_does_not_read_is_not_waited_for(manager: Manager, autojump_clock: MockClock) -> None:
    store = store_of(manager)
    deaf(manager)
    assert not await store.keep("migration-1", [0])


async def test_a_manager_that_is_late_hears_it_all(manager: Manager) -> None:
    store = store_of(manager)
    deaf(manager)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        store.forget("migration-1")
        store.forget("migration-2")
        await wait_all_tasks_blocked()
        heard = manager.hears_all()
        with trio.fail_after(30):
            while "FDSTOREREMOVE=1\nFDNAME=migration-2" not in heard:
                await trio.sleep(0.001)
                heard += manager.hears_all()
        assert [text for text in heard if "REMOVE" in text] == [
            "FDSTOREREMOVE=1\nFDNAME=migration-1",
            "FDSTOREREMOVE=1\nFDNAME=migration-2",
        ]
        nursery.cancel_scope.cancel()


async def test_a_manager_that_reads_in_time_keeps_it(manager: Manager) -> None:
    store = store_of(manager)
    deaf(manager)
    kept: list[bool] = []

    async def keep() -> None:
        kept.append(await store.keep("migration-1", [0]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        await wait_all_tasks_blocked()
        manager.hears_all()
    assert kept == [True]


async def test_a_keeping_that_is_cancelled_is_forgotten(manager: Manager) -> None:
    store = store_of(manager)
    deaf(manager)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.keep, "migration-1", [0])
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    manager.hears_all()
    store.forget("migration-2")
    assert manager.hears_all() == [
        "FDSTOREREMOVE=1\nFDNAME=migration-1",
        "FDSTOREREMOVE=1\nFDNAME=migration-2",
    ]


async def test_a_manager_that_is_gone(manager: Manager) -> None:
    store = store_of(manager)
    manager.path.unlink()
    assert not await store.keep("migration-1", [0])
    store.forget("migration-2")
