"""Which connections belong together."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proxyd.relay import migration as migration_module
from proxyd.relay.commit_guard import CommitGuard
from proxyd.relay.migration import Key, Migration, Migrations, TooManyChannels
from proxyd.relay.outcome import Ending, Outcome

KEY = Key("lab", "127.0.0.1:1", "192.0.2.1")
ONE, OTHER = bytes(16), bytes(range(16))


class Finder:
    """A channel that looks for its migration."""

    def __init__(self, migrations: Migrations, uuid: bytes = ONE, key: Key = KEY) -> None:
        self.guard = CommitGuard()
        self.found: Migration | None = None
        self._migrations = migrations
        self._arguments = (key, migrations.next_place(), uuid, self.guard)

    async def look(self) -> None:
        self.found = await self._migrations.find(*self._arguments)


async def test_channels_that_speak_first_wait_for_their_main_channel(autojump_clock: MockClock) -> None:
    migrations = Migrations()
    main = migrations.next_place()
    channels = [Finder(migrations), Finder(migrations)]
    async with trio.open_nursery() as nursery:
        for channel in channels:
            nursery.start_soon(channel.look)
        await wait_all_tasks_blocked()
        assert [channel.found for channel in channels] == [None, None]
        migration = migrations.begin(KEY, "id", CommitGuard(), main)
    assert [channel.found for channel in channels] == [migration, migration]
    assert migration.channels == 2


async def test_channels_that_come_later_join_at_once(autojump_clock: MockClock) -> None:
    migrations = Migrations()
    migration = migrations.begin(KEY, "id", CommitGuard(), migrations.next_place())
    channel = Finder(migrations)
    await channel.look()
    assert channel.found is migration


@pytest.mark.parametrize("other", [Key("other", KEY.destination, KEY.origin), Key("lab", "x", KEY.origin)])
async def test_another_route_or_destination_is_another_migration(other: Key, autojump_clock: MockClock) -> None:
    migrations = Migrations()
    migrations.begin(KEY, "id", CommitGuard(), migrations.next_place())
    stranger = Finder(migrations, key=other)
    with trio.move_on_after(10):
        await stranger.look()
    assert stranger.found is None


async def test_a_channel_of_an_earlier_attempt_waits_in_vain(autojump_clock: MockClock) -> None:
    """migrate_cancel and a new try: what was accepted before the new main channel is not its own."""
    migrations = Migrations()
    migrations.next_place()
    stale = Finder(migrations)
    main = migrations.next_place()
    fresh = Finder(migrations)
    async with trio.open_nursery() as nursery:
        for channel in (stale, fresh):
            nursery.start_soon(channel.look)
        await wait_all_tasks_blocked()
        migration = migrations.begin(KEY, "id", CommitGuard(), main)
        await wait_all_tasks_blocked()
        assert (stale.found, fresh.found) == (None, migration)
        nursery.cancel_scope.cancel()


async def test_two_sources_of_one_host_are_told_apart_by_their_uuids(autojump_clock: MockClock) -> None:
    migrations = Migrations()
    first_main, first = migrations.next_place(), Finder(migrations, ONE)
    second_main, second = migrations.next_place(), Finder(migrations, OTHER)
    late = Finder(migrations, ONE)
    async with trio.open_nursery() as nursery:
        for channel in (first, second, late):
            nursery.start_soon(channel.look)
        await wait_all_tasks_blocked()
        two = migrations.begin(KEY, "2", CommitGuard(), second_main)
        one = migrations.begin(KEY, "1", CommitGuard(), first_main)
    assert (first.found, second.found, late.found) == (one, two, one)


async def test_a_channel_that_gives_up_is_forgotten(autojump_clock: MockClock) -> None:
    migrations = Migrations()
    main = migrations.next_place()
    channel = Finder(migrations)
    with trio.move_on_after(1):
        await channel.look()
    assert migrations.begin(KEY, "id", CommitGuard(), main).channels == 0


async def test_there_is_a_limit_to_channels(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration_module, "MAX_CHANNELS", 2)
    migrations = Migrations()
    main = migrations.next_place()
    channels = [Finder(migrations) for _ in range(2)]
    async with trio.open_nursery() as nursery:
        for channel in channels:
            nursery.start_soon(channel.look)
        await wait_all_tasks_blocked()
        with pytest.raises(TooManyChannels, match="at most 2 channels expected to wait for their main one"):
            await Finder(migrations).look()
        migrations.begin(KEY, "id", CommitGuard(), main)
    with pytest.raises(TooManyChannels, match="at most 2 channels expected beside the main one, found another"):
        await Finder(migrations).look()


async def test_more_that_wait_than_may_join(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    migrations = Migrations()
    main = migrations.next_place()
    channels = [Finder(migrations) for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for channel in channels:
            nursery.start_soon(channel.look)
        await wait_all_tasks_blocked()
        monkeypatch.setattr(migration_module, "MAX_CHANNELS", 2)
        assert migrations.begin(KEY, "id", CommitGuard(), main).channels == 2
        nursery.cancel_scope.cancel()


async def test_the_others_follow_the_main_channel_over_the_commit_point(autojump_clock: MockClock) -> None:
    migrations = Migrations()
    guard = CommitGuard()
    migration = migrations.begin(KEY, "id", guard, migrations.next_place())
    before, after = Finder(migrations), Finder(migrations)
    await before.look()
    with guard.scope:
        await guard.commit()
    assert before.guard.committed
    await after.look()
    assert after.guard.committed
    migrations.end(migration)
    assert not before.guard.abandoned


async def test_a_migration_that_ends_takes_its_channels_with_it(autojump_clock: MockClock) -> None:
    migrations = Migrations()
    guard = CommitGuard()
    migration = migrations.begin(KEY, "id", guard, migrations.next_place())
    other = migrations.begin(KEY, "other", CommitGuard(), migrations.next_place())
    channel = Finder(migrations)
    channel._arguments = (KEY, 1, ONE, channel.guard)
    await channel.look()
    assert channel.found is migration
    migrations.end(migration)
    assert channel.guard.ending == Ending(Outcome.SOURCE_GONE, "its migration has ended")
    migrations.end(other)


async def test_channels_are_dialled_in_the_order_of_accept(autojump_clock: MockClock) -> None:
    migrations = Migrations()
    migration = migrations.begin(KEY, "id", CommitGuard(), migrations.next_place())
    finders = [Finder(migrations) for _ in range(4)]
    for finder in reversed(finders):
        await finder.look()
    turns: list[int] = []

    async def dial(place: int) -> None:
        try:
            await migration.wait_turn(place)
            turns.append(place)
            await trio.sleep(1)
        finally:
            migration.end_turn(place)

    async with trio.open_nursery() as nursery:
        for place in (4, 2, 3):
            nursery.start_soon(dial, place)
        await wait_all_tasks_blocked()
        assert turns == []
        migration.open()
        await trio.sleep(10)
        assert turns == [], "the first one has not been dialled"
        migration.end_turn(1)
    assert turns == [2, 3, 4]


async def test_a_lost_channel_ends_its_migration_and_only_that_one(autojump_clock: MockClock) -> None:
    migrations = Migrations()
    guards = [CommitGuard(), CommitGuard()]
    migration, _ = (migrations.begin(KEY, "id", guard, migrations.next_place()) for guard in guards)
    migration.channel_lost(Ending(Outcome.SOURCE_GONE, "gone"))
    assert [guard.abandoned for guard in guards] == [True, False]


async def test_who_takes_a_connection_that_says_nothing(autojump_clock: MockClock) -> None:
    migrations = Migrations()
    early = migrations.next_place()
    migration = migrations.begin(KEY, "id", CommitGuard(), migrations.next_place())
    late = migrations.next_place()
    assert migrations.find_for_unknown(KEY, late, 0) is None
    migration.preempt.recover()
    assert migrations.find_for_unknown(KEY, late, 0) is migration
    assert migrations.find_for_unknown(KEY, early, 0) is None
    assert migrations.find_for_unknown(Key("other", "", ""), late, 0) is None
    migration.preempt.take()
    assert migrations.find_for_unknown(KEY, late, 0) is None
