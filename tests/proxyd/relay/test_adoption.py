"""Another process's migration, taken up again. Here it is one process: what is kept is duplicated, and then closed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from proxyd.metrics import Metrics
from proxyd.relay.adoption import AdoptedMigration, adopt
from proxyd.relay.committed_stream import CommittedStream
from proxyd.relay.keeping import Keeper, carried
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.pump import plain_pipes
from proxyd.rewrite.rewriter import Phase
from tests.proxyd.relay.kept import Ends, MemoryStore, ends
from tests.proxyd.relay.stage import PONG_1, SHUT_0, SHUT_1, Told, a_journal, value
from tests.proxyd.relay.wires import read_exactly, read_to_fin, reset


class Left:
    """A migration that was left, and the process that comes after."""

    def __init__(self, main: Ends, channels: list[Ends], store: MemoryStore) -> None:
        self.main = main
        self.channels = channels
        self.store = store
        self.metrics = Metrics()
        self.journal, self.told = a_journal()

    def adopt(self) -> AdoptedMigration:
        (migration,) = adopt(self.store.give(), self.store, self.metrics, self.journal)
        return migration


@asynccontextmanager
async def left(
    *, switched: bool = False, said: bytes = b"", in_pipes: bytes = b"", channels: int = 0
) -> AsyncIterator[Left]:
    """A migration whose process died right after the commit point; ``said`` went by on the return path."""
    store = MemoryStore()
    keeper = Keeper(store, "abc123", "lab", "label", a_journal()[0])
    phase = Phase.OPAQUE if switched else Phase.RELEASED
    stream = CommittedStream("as it is", phase=phase, machine="virt-10.0", switched=switched)
    async with ends() as main, trio.open_nursery() as nursery:
        others = []
        for _ in range(channels):
            other = await nursery.start(_hold)
            others.append(other)
        with plain_pipes(main.source, main.destination) as pipes:
            assert pipes is not None
            first = carried("main channel", "main", main.source, main.destination, pipes)
            assert first is not None
            made = [plain_pipes(other.source, other.destination) for other in others]
            for number, (other, pair) in enumerate(zip(others, [one.__enter__() for one in made], strict=True)):
                channel = carried(f"multifd channel {number}", "multifd", other.source, other.destination, pair)
                assert channel is not None
                os.write(channel.forth.write_end, in_pipes)
                keeper.carried.append(channel)
            os.write(pipes[0].write_end, in_pipes)
            deposit = await keeper.keep(first, [b"device ", b"state"], stream)
            assert deposit is not None
            assert await deposit.send(main.destination, 3) == 3
            assert keeper.words is not None
            keeper.words.hear(said)
            deposit.close()
            for one in made:
                one.__exit__(None, None, None)
        for one in (main, *others):
            one.source.close()
            one.destination.close()
        try:
            yield Left(main, others, store)
        finally:
            store.close()
            nursery.cancel_scope.cancel()


async def _hold(task_status: trio.TaskStatus[Ends]) -> None:
    async with ends() as one:
        task_status.started(one)
        await trio.sleep_forever()


async def test_it_goes_on_where_the_bytes_are() -> None:
    async with left(in_pipes=b" and more", channels=2) as scene:
        migration = scene.adopt()
        facts = migration.facts()
        assert (facts["id"], facts["route"], facts["channels"]) == ("abc123", "lab", 2)
        assert (facts["phase"], facts["committed"], facts["machine"]) == ("released", True, "virt-10.0")
        assert not migration.abandon(Ending(Outcome.DRAINED, "never"))
        async with trio.open_nursery() as nursery:
            ended: list[Ending] = []

            async def run() -> None:
                ended.append(await migration.run())

            nursery.start_soon(run)
            assert await read_exactly(scene.main.qemu_destination, 21) == b"device state and more"
            await scene.main.qemu_source.send_all(b"!")
            assert await read_exactly(scene.main.qemu_destination, 1) == b"!"
            for other in scene.channels:
                assert await read_exactly(other.qemu_destination, 9) == b" and more"
                await other.qemu_source.send_all(b"pages")
                assert await read_exactly(other.qemu_destination, 5) == b"pages"
                await other.qemu_source.send_eof()
                assert await read_to_fin(other.qemu_destination) == b""
                await other.qemu_destination.aclose()
            await scene.main.qemu_destination.send_all(SHUT_0)
            await scene.main.qemu_destination.aclose()
            assert await read_to_fin(scene.main.qemu_source) == SHUT_0
            await scene.main.qemu_source.aclose()
        assert ended == [Ending(Outcome.COMPLETED, "the destination said SHUT(0): the guest runs there")]
        assert scene.store.forgotten == ["migration-abc123"]
        assert value(scene.metrics, "proxyd_migrations_total", route="label", outcome="completed") == 1
        assert value(scene.metrics, "proxyd_active_sessions") == 0
        assert "a migration past its commit point is taken up again" in scene.told.texts()


@pytest.mark.parametrize(
    ("said", "then", "outcome"),
    [
        (SHUT_0, b"", Outcome.COMPLETED),
        (SHUT_1, b"", Outcome.DESTINATION_FAILED),
        (SHUT_0[:5], SHUT_0[5:], Outcome.COMPLETED),
        (PONG_1 + SHUT_1[:1], SHUT_1[1:], Outcome.DESTINATION_FAILED),
        (PONG_1, b"", Outcome.DESTINATION_FAILED),
    ],
)
async def test_the_verdict_counts_what_was_said_before(said: bytes, then: bytes, outcome: Outcome) -> None:
    async with left(said=said) as scene:
        await scene.main.qemu_destination.send_all(then)
        await scene.main.qemu_destination.send_eof()
        await scene.main.qemu_source.send_eof()
        ending = await scene.adopt().run()
        assert ending.outcome is outcome
        assert await read_to_fin(scene.main.qemu_source) == then


async def test_a_postcopy_that_breaks_is_called_one() -> None:
    async with left(switched=True) as scene:
        migration = scene.adopt()
        assert migration.facts()["phase"] == "opaque"
        reset(scene.main.qemu_destination)
        await scene.main.qemu_source.send_eof()
        assert (await migration.run()).outcome is Outcome.POSTCOPY_BROKEN


async def test_a_peer_that_went_meanwhile_is_noticed() -> None:
    async with left(channels=1) as scene:
        reset(scene.main.qemu_source)
        reset(scene.channels[0].qemu_source)
        migration = scene.adopt()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(migration.run)
            assert await read_exactly(scene.main.qemu_destination, 12) == b"device state"
            await scene.main.qemu_destination.send_all(SHUT_0)
            await scene.main.qemu_destination.aclose()
        assert any("what it had sent is delivered all the same" in text for text in scene.told.texts())
        assert any("multifd channel 0 ended on the side of the source" in text for text in scene.told.texts())


def complaint(told: Told) -> str:
    (text,) = told.texts()
    return text


async def test_what_is_not_whole_is_not_adopted() -> None:
    async with left() as scene:
        given = {name: tuple(found) for name, found in scene.store.give().items()}
        before = len(os.listdir("/proc/self/fd"))
        (name,) = given
        os.close(given[name][0])
        assert adopt({name: given[name][1:]}, scene.store, scene.metrics, scene.journal) == []
        assert complaint(scene.told).startswith(
            "migration-abc123: expected what is left of a migration, found KeyError"
        )
        assert len(os.listdir("/proc/self/fd")) == before - len(given[name])


async def test_what_another_process_carries_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async with left() as scene:
        monkeypatch.setattr("fcntl.lockf", locked)
        assert adopt(scene.store.give(), scene.store, scene.metrics, scene.journal) == []
        assert "BlockingIOError" in complaint(scene.told)
        assert scene.store.forgotten == []


async def test_without_a_store_it_is_carried_all_the_same() -> None:
    async with left(said=SHUT_0) as scene:
        await scene.main.qemu_destination.send_eof()
        await scene.main.qemu_source.send_eof()
        (migration,) = adopt(scene.store.give(), None, scene.metrics, scene.journal)
        assert (await migration.run()).outcome is Outcome.COMPLETED
