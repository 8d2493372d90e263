"""Which connections belong together: one migration is a main channel and any number of others.

QEMU's source connects the main channel first and speaks on it last (``migration/migration.c: migration_thread``): the
multifd channels connect, say their 64 bytes, and only then does QEVM come. So channels that have spoken wait here for
their main channel, and nothing is dialled for either until the main channel's prologue was accepted and delivered: a
destination without a way to peek (QEMU 7.2, TLS) takes the first connection that it accepts for the main one.

Channels are matched to a main channel by where they come from and lead to, by the order of accept, and by the uuid in
their first packet. Nothing here moves bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final

import trio

from proxyd.relay.commit_guard import CommitGuard
from proxyd.relay.greeting import Greeting
from proxyd.relay.keeping import Carried, Keeper
from proxyd.relay.outcome import Ending, Outcome
from proxyd.relay.preempt import PreemptWindow

# QEMU itself takes up to 255 multifd channels (migration/options.c: multifd-channels is a u8), and one for preempt.
MAX_CHANNELS: Final = 256

# The guest stands still meanwhile. A channel that was dialled is carried as soon as its first bytes are out, and one
# that TLS is on never will be.
SETTLE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Key:
    """What the connections of one migration have in common: route, destination, and the source's address or pid."""

    route: str
    destination: str
    origin: str


class TooManyChannels(Exception):
    """``str()`` says how many were expected."""


class Migration:
    """A migration whose main channel has spoken.

    :param guard: the main channel's. Those of the other channels follow it over the commit point.
    :param accepted: the main channel's place in the order of accept.
    """

    def __init__(self, key: Key, ident: str, guard: CommitGuard, accepted: int, silent: list[Silent]) -> None:
        self.key = key
        self.id = ident
        self.accepted = accepted
        self.uuid: bytes | None = None
        self._began = trio.current_time()
        self.preempt = PreemptWindow(self._began)
        self.keeper: Keeper | None = None
        self.page_size: int | None = None  # of the guest, in bytes, once the prologue was read
        self._silent = silent
        self._hurried: Silent | None = None
        self._guard = guard
        self._followers: list[CommitGuard] = []
        self._open = False
        self._undialled: set[int] = set()  # places in the order of accept
        self._changed = trio.Event()

    @property
    def channels(self) -> int:
        """How many channels it has beside the main one."""
        return len(self._followers)

    def is_growing(self, setup_s: float) -> bool:
        """Whether more channels may come: within ``setup_s`` seconds of its beginning, and a preempt channel later."""
        young = trio.current_time() - self._began < setup_s
        return young or (self.preempt.is_awaited and not self._guard.committed)

    def open(self) -> None:
        """The destination has the main channel's first bytes: it takes the others from now on."""
        self._open = True
        self._change()

    def switch(self) -> None:
        """The source switches to postcopy: its preempt channel, if any, is the last connection that is silent."""
        if self.preempt.switch(trio.current_time()):
            later = [one for one in self._silent if one.accepted > self.accepted and not one.greeting.first]
            fitting = [one for one in later if self.preempt.fits(one.arrived)]
            if fitting:
                self._hurried = max(fitting, key=lambda one: one.accepted)
                self._hurried.left = self._change
                self._hurried.greeting.hurry()

    async def gather(self) -> None:
        """Before the commit point: every channel that has come is dialled, or the migration is abandoned meanwhile.

        A destination that refuses one would otherwise be found out when the source can no longer take its guest back.
        """
        while self._open and (self._undialled or self._hurried in self._silent):
            await self._changed.wait()

    async def settle(self) -> bool:
        """Wait, a moment at most, until each channel is carried in a way that can be kept. Says whether all are."""
        with trio.move_on_after(SETTLE_S):
            while self.keeper is not None and len(self.keeper.carried) < self.channels:
                await self._changed.wait()
            return self.keeper is not None
        return False

    async def wait_turn(self, accepted: int) -> None:
        """Until the destination takes channels, and those that were accepted before this one were dialled."""
        while not self._open or min(self._undialled) < accepted:
            await self._changed.wait()

    def end_turn(self, accepted: int) -> None:
        """This channel was dialled, or never will be."""
        self._undialled.discard(accepted)
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def join(self, guard: CommitGuard, accepted: int) -> None:
        """Another channel belongs to it, and will be dialled. Raises :class:`TooManyChannels`."""
        if len(self._followers) >= MAX_CHANNELS:
            raise TooManyChannels(f"at most {MAX_CHANNELS} channels expected beside the main one, found another")
        self._followers.append(guard)
        self._undialled.add(accepted)
        self._guard.lead(guard)

    def progress(self) -> None:
        """One of its channels has moved bytes, so it is not idle."""
        self._guard.progress()

    @contextmanager
    def carrying(self, channel: Carried | None) -> Iterator[None]:
        """While a channel beside the main one is carried; None is one that cannot be kept."""
        if self.keeper is None or channel is None:
            yield
            return
        self.keeper.carried.append(channel)
        self._change()
        try:
            yield
        finally:
            self.keeper.carried.remove(channel)

    def channel_lost(self, ending: Ending) -> None:
        """A channel has ended. Before the commit point that ends the migration: its memory is not whole."""
        self._guard.abandon(ending)

    def end(self) -> None:
        """The main channel has ended. Channels that are not past the commit point end with it."""
        for guard in self._followers:
            guard.abandon(Ending(Outcome.SOURCE_GONE, "its migration has ended"))


@dataclass(eq=False, slots=True)
class Silent:
    """A connection that has not said what it is; ``left`` is called when it has."""

    accepted: int
    arrived: float
    greeting: Greeting
    left: Callable[[], None] = lambda: None


@dataclass(eq=False, slots=True)
class _Waiting:
    """A channel that has spoken before its main channel."""

    accepted: int
    uuid: bytes
    guard: CommitGuard
    found: trio.Event = field(default_factory=trio.Event)
    migration: Migration | None = None


class Migrations:
    """Every migration that runs, and the channels that wait for theirs."""

    def __init__(self) -> None:
        self._order = count()
        self._running: dict[Key, list[Migration]] = {}
        self._waiting: dict[Key, list[_Waiting]] = {}
        self._silent: dict[Key, list[Silent]] = {}

    def next_place(self) -> int:
        """The place of a connection in the order of accept."""
        return next(self._order)

    def begin(self, key: Key, ident: str, guard: CommitGuard, accepted: int) -> Migration:
        """A main channel has spoken. It gets the waiting channels that were accepted after it and share one uuid."""
        migration = Migration(key, ident, guard, accepted, self._silent.setdefault(key, []))
        self._running.setdefault(key, []).append(migration)
        waiting = self._waiting.get(key, [])
        later = sorted((one for one in waiting if one.accepted > accepted), key=lambda one: one.accepted)
        if later:
            migration.uuid = later[0].uuid
        for one in later:
            if one.uuid == migration.uuid and migration.channels < MAX_CHANNELS:
                waiting.remove(one)
                migration.join(one.guard, one.accepted)
                one.migration = migration
                one.found.set()
        return migration

    def end(self, migration: Migration) -> None:
        """Its main channel has ended."""
        running = self._running[migration.key]
        running.remove(migration)
        if not running:
            del self._running[migration.key]
        self._forget_silence(migration.key)
        migration.end()

    @contextmanager
    def listening(self, key: Key, accepted: int, arrived: float, greeting: Greeting) -> Iterator[None]:
        """While a connection has not said what it is."""
        one = Silent(accepted, arrived, greeting)
        silent = self._silent.setdefault(key, [])
        silent.append(one)
        try:
            yield
        finally:
            silent.remove(one)
            self._forget_silence(key)
            one.left()

    def _forget_silence(self, key: Key) -> None:
        # The list is shared with the migrations of that key, so it lives as long as one of them.
        if key not in self._running and not self._silent.get(key):
            self._silent.pop(key, None)

    async def find(self, key: Key, accepted: int, uuid: bytes, guard: CommitGuard) -> Migration:
        """The migration of a multifd channel; waits until its main channel has spoken.

        Resource handling: a caller that is cancelled waits no more.

        :raises TooManyChannels: it has as many as it may have.
        """
        for migration in reversed(self._running.get(key, [])):
            if migration.accepted < accepted and migration.uuid in {None, uuid}:
                migration.uuid = uuid
                migration.join(guard, accepted)
                return migration
        one = _Waiting(accepted, uuid, guard)
        waiting = self._waiting.setdefault(key, [])
        if len(waiting) >= MAX_CHANNELS:
            raise TooManyChannels(f"at most {MAX_CHANNELS} channels expected to wait for their main one, found another")
        waiting.append(one)
        try:
            await one.found.wait()
        finally:
            if one in waiting:
                waiting.remove(one)
            if not waiting:
                self._waiting.pop(key, None)
        if one.migration is None:
            raise AssertionError("a channel is told of its migration before it is woken")
        return one.migration

    def find_for_unknown(self, key: Key, accepted: int, arrived: float) -> Migration | None:
        """The migration that takes a connection which says nothing, or nothing that we know."""
        for migration in reversed(self._running.get(key, [])):
            if migration.accepted < accepted and migration.preempt.fits(arrived):
                return migration
        return None
