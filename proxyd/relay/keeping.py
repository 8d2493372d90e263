"""What of a migration outlives this process, once it is past its commit point.

Its sockets, the pipes between them and the device state on its way are file descriptors, and nothing else is needed to
go on: so they are given to the service manager as well (sd_notify(3): ``FDSTORE=1``), which passes them to the process
that it starts after this one has died. :mod:`.adoption` goes on there.

One migration is one name in the store. With it go two files in the kernel's memory: the ledger, which says what each
descriptor is, and the last words of the return path. A record lock on the ledger (fcntl(2)) says that a process carries
the migration; it ends with that process and no sooner, so there are never two.

Only plain sockets can be kept. What a TLS leg is depends on keys in this process.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from formats.return_path import ReturnPathEvent
from formats.savevm import ReturnPathMessage
from proxyd.journal import Journal
from proxyd.relay.channel import Leg, SocketLeg
from proxyd.relay.deposit import FileDeposit
from proxyd.relay.intake import Rewriter
from proxyd.relay.pump import Pipe
from proxyd.relay.transport import Buffer
from proxyd.rewrite.rewriter import Phase

# The names of the store: this, and the migration's id.
NAME_PREFIX: Final = "migration-"

LEDGER_FILE: Final = "proxyd-ledger"
WORDS_FILE: Final = "proxyd-last-words"
LEDGER_VERSION: Final = 1

_SHUT: Final = struct.Struct(">HHI")


class DescriptorStore(Protocol):
    """Whoever keeps file descriptors for the process that comes after this one."""

    async def keep(self, name: str, descriptors: Sequence[int]) -> bool:
        """Add them under this name. Says whether they were taken; raises nothing."""

    def forget(self, name: str) -> None:
        """Close all that is kept under this name."""


@dataclass(frozen=True, slots=True)
class Carried:
    """One channel with nothing of it in this process's memory."""

    name: str
    kind: str
    source: SocketLeg
    destination: SocketLeg
    forth: Pipe
    back: Pipe

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that it consists of."""
        pipes = (self.forth.read_end, self.forth.write_end, self.back.read_end, self.back.write_end)
        return (self.source.fileno(), self.destination.fileno(), *pipes)


class LedgerEntry(msgspec.Struct, frozen=True):
    """A channel: inodes of its two sockets and two pipes (fstat(2)), which no two open ones share."""

    name: str
    kind: str
    source: int
    source_peer: str
    destination: int
    destination_peer: str
    forth: int
    back: int

    @classmethod
    def of(cls, channel: Carried) -> LedgerEntry:
        """What to write of a channel."""
        return cls(
            name=channel.name,
            kind=channel.kind,
            source=_inode(channel.source.fileno()),
            source_peer=channel.source.peer,
            destination=_inode(channel.destination.fileno()),
            destination_peer=channel.destination.peer,
            forth=_inode(channel.forth.read_end),
            back=_inode(channel.back.read_end),
        )


class Ledger(msgspec.Struct, frozen=True):
    """What the next process has to know of a migration.

    ``channels``: the main one first. ``began``: seconds since 1970.
    """

    version: int
    migration: str
    route: str
    label: str
    machine: str | None
    switched: bool
    return_path: bool
    opaque: bool
    began: float
    channels: tuple[LedgerEntry, ...]

    @classmethod
    def read(cls, file: int) -> Ledger:
        """:raises ValueError: it is not one, or another version's."""
        ledger = msgspec.json.decode(os.pread(file, os.fstat(file).st_size, 0), type=cls)
        if ledger.version != LEDGER_VERSION:
            raise ValueError(f"ledger of version {LEDGER_VERSION} expected, found {ledger.version}")
        return ledger


class LastWords:
    """The last eight bytes of a return path: the length of a SHUT, which is the last message that there is.

    A :class:`~formats.return_path.ReturnPathReader` for a process that has not heard the beginning.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._words = os.pread(file, _SHUT.size, 0)

    @property
    def shut(self) -> int | None:
        """The value of the SHUT, if that is what they are."""
        if len(self._words) != _SHUT.size:
            return None
        kind, length, value = _SHUT.unpack(self._words)
        return int(value) if (kind, length) == (ReturnPathMessage.SHUT, 4) else None

    def hear(self, chunk: bytes) -> None:
        """Keep the end of what was said so far."""
        self._words = (self._words + chunk)[-_SHUT.size :]
        os.pwrite(self._file, self._words, 0)

    def feed(self, chunk: bytes) -> list[ReturnPathEvent]:
        """As :meth:`~formats.return_path.ReturnPathReader.feed`, for a SHUT only."""
        self.hear(chunk)
        return [] if self.shut is None else [ReturnPathEvent(ReturnPathMessage.SHUT, self.shut, 0)]

    def close(self) -> None:
        """Forget them here."""
        os.close(self._file)


class Keeper:
    """Keeps one migration. ``carried`` has the channels beside the main one while they are carried."""

    def __init__(self, store: DescriptorStore, migration: str, route: str, label: str, journal: Journal) -> None:
        self.name = NAME_PREFIX + migration
        self.carried: list[Carried] = []
        self.words: LastWords | None = None
        self._store = store
        self._migration = migration
        self._route = route
        self._label = label
        self._journal = journal
        self._began = time.time()
        self._ledger: int | None = None

    @property
    def is_kept(self) -> bool:
        """Whether another process could go on with the migration."""
        return self._ledger is not None

    async def keep(self, main: Carried, buffers: Sequence[Buffer], rewriter: Rewriter) -> FileDeposit | None:
        """Keep it, with ``buffers`` still to be delivered. None: it cannot be kept, and goes on all the same."""
        channels = (main, *self.carried)
        deposit = None
        try:
            ledger = Ledger(
                version=LEDGER_VERSION,
                migration=self._migration,
                route=self._route,
                label=self._label,
                machine=rewriter.machine,
                switched=rewriter.switched,
                return_path=rewriter.return_path,
                opaque=rewriter.phase is Phase.OPAQUE,
                began=self._began,
                channels=tuple(map(LedgerEntry.of, channels)),
            )
            deposit = FileDeposit.of(buffers)
            words = os.memfd_create(WORDS_FILE, os.MFD_CLOEXEC)
            self.words = LastWords(words)
            self._ledger = os.memfd_create(LEDGER_FILE, os.MFD_CLOEXEC)
            os.write(self._ledger, msgspec.json.encode(ledger))
            fcntl.lockf(self._ledger, fcntl.LOCK_EX | fcntl.LOCK_NB)
            descriptors = [self._ledger, words, deposit.file]
            for channel in channels:
                descriptors += channel.descriptors
            if await self._store.keep(self.name, descriptors):
                return deposit
        except OSError as error:
            self._journal.warning(f"a crash of this process would break the migration: {error.strerror or error}")
        except BaseException:
            if deposit is not None:
                deposit.close()
            self.end()
            raise
        if deposit is not None:
            deposit.close()
        self.end()
        return None

    def end(self) -> None:
        """The migration is over, or one of its legs has to be reset: no other process is to go on with it."""
        if self._ledger is not None:
            self._store.forget(self.name)
            os.close(self._ledger)
            self._ledger = None
        if self.words is not None:
            self.words.close()
            self.words = None


def carried(name: str, kind: str, source: Leg, destination: Leg, pipes: tuple[Pipe, Pipe] | None) -> Carried | None:
    """A channel that could be kept; None if it has no pipes, because a leg is not a plain socket."""
    if pipes is None or not (isinstance(source, SocketLeg) and isinstance(destination, SocketLeg)):
        return None
    return Carried(name, kind, source, destination, *pipes)


def _inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino
