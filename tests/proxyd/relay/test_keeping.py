"""What is given to the service manager at the commit point, and what the next process reads there."""

from __future__ import annotations

import fcntl
import os
import stat
import sys

import msgspec
import pytest
import trio

from proxyd.relay.committed_stream import CommittedStream
from proxyd.relay.keeping import LEDGER_FILE, Carried, Keeper, LastWords, Ledger, carried
from proxyd.relay.pump import plain_pipes
from proxyd.rewrite.rewriter import Phase
from tests.proxyd.relay.kept import MemoryStore, ends
from tests.proxyd.relay.legs import leg_pair
from tests.proxyd.relay.stage import SHUT_0, SHUT_1, a_journal

STREAM = CommittedStream("as it is", phase=Phase.RELEASED, machine="virt-10.0", switched=False)

TRY_LOCK = """\
import fcntl, sys
try:
    fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(7)
"""


def a_keeper(store: MemoryStore) -> Keeper:
    return Keeper(store, "abc123", "lab", "lab", a_journal()[0])


async def test_a_migration_is_kept_whole() -> None:
    store = MemoryStore()
    keeper = a_keeper(store)
    before = os.listdir("/proc/self/fd")
    async with ends() as main, ends() as other:
        with plain_pipes(main.source, main.destination) as pipes, plain_pipes(other.source, other.destination) as more:
            first = carried("main channel", "main", main.source, main.destination, pipes)
            second = carried("multifd channel 0", "multifd", other.source, other.destination, more)
            assert first is not None
            assert second is not None
            keeper.carried.append(second)
            deposit = await keeper.keep(first, [b"device state"], STREAM)
            assert deposit is not None
            assert keeper.is_kept
            (kept,) = store.kept.values()
            assert store.kept.keys() == {"migration-abc123"}
            assert sum(stat.S_ISSOCK(os.fstat(one).st_mode) for one in kept) == 4
            assert sum(stat.S_ISFIFO(os.fstat(one).st_mode) for one in kept) == 8
            (file,) = [one for one in kept if LEDGER_FILE in os.readlink(f"/proc/self/fd/{one}")]
            ledger = Ledger.read(file)
            assert (ledger.migration, ledger.route, ledger.machine) == ("abc123", "lab", "virt-10.0")
            assert (ledger.switched, ledger.return_path, ledger.opaque) == (False, True, False)
            assert [entry.name for entry in ledger.channels] == ["main channel", "multifd channel 0"]
            assert ledger.channels[0].source_peer == main.source.peer
            assert ledger.channels[1].destination == os.fstat(other.destination.fileno()).st_ino
            assert keeper.words is not None
            keeper.words.hear(b"PONG" + SHUT_1)
            assert keeper.words.shut == 1
            words = keeper.words
            deposit.close()
            keeper.end()
            words.hear(SHUT_0)  # the relay may still do so, and writes to no file
            keeper.end()
    assert not keeper.is_kept
    assert store.forgotten == ["migration-abc123"]
    assert os.listdir("/proc/self/fd") == before


async def test_a_process_that_carries_it_is_known_by_its_lock() -> None:
    """The lock is this process's: another one with the same open file cannot take it, and can when this one is gone."""
    store = MemoryStore()
    keeper = a_keeper(store)
    async with ends() as one:
        with plain_pipes(one.source, one.destination) as pipes:
            main = carried("main channel", "main", one.source, one.destination, pipes)
            assert main is not None
            deposit = await keeper.keep(main, [b"x"], STREAM)
            assert deposit is not None
            (kept,) = store.kept.values()

            async def try_lock() -> int:
                command = [sys.executable, "-c", TRY_LOCK, str(kept[0])]
                return (await trio.run_process(command, pass_fds=kept[:1], check=False)).returncode

            assert await try_lock() == 7
            fcntl.lockf(kept[0], fcntl.LOCK_UN)  # what the end of this process does
            assert await try_lock() == 0
            deposit.close()
            keeper.end()


@pytest.mark.parametrize("error", [None, OSError(24, "Too many open files")])
async def test_what_cannot_be_kept_goes_on_all_the_same(error: OSError | None) -> None:
    store = MemoryStore(takes=False)
    store.error = error
    keeper = a_keeper(store)
    before = os.listdir("/proc/self/fd")
    async with ends() as one:
        with plain_pipes(one.source, one.destination) as pipes:
            main = carried("main channel", "main", one.source, one.destination, pipes)
            assert main is not None
            assert await keeper.keep(main, [b"x"], STREAM) is None
    assert not keeper.is_kept
    assert os.listdir("/proc/self/fd") == before


async def test_without_descriptors_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    journal, told = a_journal()
    keeper = Keeper(MemoryStore(), "abc123", "lab", "lab", journal)

    def fails(*_: object) -> int:
        raise OSError(24, "Too many open files")

    async with ends() as one:
        with plain_pipes(one.source, one.destination) as pipes:
            main = carried("main channel", "main", one.source, one.destination, pipes)
            assert main is not None
            monkeypatch.setattr(os, "memfd_create", fails)
            assert await keeper.keep(main, [b"x"], STREAM) is None
    assert told.texts() == ["a crash of this process would break the migration: Too many open files"]


async def test_a_migration_that_is_abandoned_meanwhile_is_not_kept() -> None:
    store = MemoryStore()
    keeper = a_keeper(store)
    before = os.listdir("/proc/self/fd")
    async with ends() as one:
        with plain_pipes(one.source, one.destination) as pipes:
            main = carried("main channel", "main", one.source, one.destination, pipes)
            assert main is not None
            with trio.CancelScope() as scope:
                scope.cancel()
                await keeper.keep(main, [b"x"], STREAM)
            assert scope.cancelled_caught
    assert not store.kept
    assert os.listdir("/proc/self/fd") == before


async def test_only_plain_sockets_are_kept() -> None:
    source, _ = leg_pair("source:1", "proxyd")
    async with ends() as one:
        with plain_pipes(source, one.destination) as pipes:
            assert pipes is None
            assert carried("main channel", "main", source, one.destination, pipes) is None
        with plain_pipes(one.source, one.destination) as pipes:
            assert carried("main channel", "main", source, one.destination, pipes) is None
            assert isinstance(carried("main channel", "main", one.source, one.destination, pipes), Carried)


def test_the_last_words() -> None:
    file = os.memfd_create("words")
    words = LastWords(file)
    assert words.shut is None
    assert words.feed(b"\x00\x02\x00\x04\x00\x00\x00\x01\x00\x01") == []
    twin = LastWords(os.dup(file))
    (event,) = twin.feed(b"\x00\x04\x00\x00\x00\x00")
    assert (event.message.name, event.value, twin.shut) == ("SHUT", 0, 0)
    words.close()
    twin.close()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version": 2}'])
def test_what_is_no_ledger(content: bytes) -> None:
    file = os.memfd_create("ledger")
    os.write(file, content)
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        Ledger.read(file)
    os.close(file)


def test_a_ledger_of_another_version() -> None:
    file = os.memfd_create("ledger")
    os.write(file, msgspec.json.encode(Ledger(2, "a", "lab", "lab", None, False, True, False, 0.0, ())))
    with pytest.raises(ValueError, match="ledger of version 1 expected, found 2"):
        Ledger.read(file)
    os.close(file)
