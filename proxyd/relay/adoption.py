"""Migrations that another process of proxyd has brought past their commit point before it died.

The service manager hands over what :mod:`.keeping` has given it. Each ledger says which descriptor is what, and the
relay goes on where the bytes are: first the device state that is still undelivered, then what the pipes hold, then what
the sockets bring. The peers notice a pause.

Needs no configuration and judges nothing.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from proxyd.journal import Journal
from proxyd.metrics import Direction, Metrics
from proxyd.relay.channel import SocketLeg
from proxyd.relay.channel_relay import ChannelRelay
from proxyd.relay.commit_guard import CommitGuard
from proxyd.relay.committed_stream import CommittedStream
from proxyd.relay.deposit import FILE_NAME, FileDeposit
from proxyd.relay.intake import Intake
from proxyd.relay.keeping import (
    LEDGER_FILE,
    WORDS_FILE,
    Carried,
    DescriptorStore,
    LastWords,
    Ledger,
    LedgerEntry,
)
from proxyd.relay.outcome import Ending
from proxyd.relay.pump import Pipe
from proxyd.relay.record import SessionRecord
from proxyd.relay.wire import Wire
from proxyd.rewrite.rewriter import Phase


class NotAdoptable(Exception):
    """``str()`` says what was expected and found."""


@dataclass(slots=True)
class _Found:
    """Descriptors of one name of the store, by what they are."""

    files: dict[str, int] = field(default_factory=dict)
    sockets: dict[int, int] = field(default_factory=dict)
    pipes: dict[tuple[int, int], int] = field(default_factory=dict)  # inode and access mode

    @classmethod
    def among(cls, descriptors: Iterable[int]) -> _Found:
        found = cls()
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode):
                found.sockets[status.st_ino] = descriptor
            elif stat.S_ISFIFO(status.st_mode):
                mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
                found.pipes[status.st_ino, mode] = descriptor
            else:
                # "/memfd:proxyd-ledger (deleted)"
                name = os.readlink(f"/proc/self/fd/{descriptor}").removeprefix("/memfd:").split(" ")[0]
                found.files[name] = descriptor
        return found

    def channel(self, entry: LedgerEntry) -> Carried:
        """:raises KeyError: something of it is not there."""
        ends = [self.pipes[inode, mode] for inode in (entry.forth, entry.back) for mode in (os.O_RDONLY, os.O_WRONLY)]
        source, destination = self.sockets[entry.source], self.sockets[entry.destination]
        return Carried(
            entry.name,
            entry.kind,
            SocketLeg.adopt(source, entry.source_peer),
            SocketLeg.adopt(destination, entry.destination_peer),
            Pipe(*ends[:2]),
            Pipe(*ends[2:]),
        )


class AdoptedMigration:
    """One migration. :meth:`run` it once.

    :param descriptors: all that was kept under ``name``; taken over.
    :raises NotAdoptable: they are not a migration's, or another process carries it. They are closed then.
    """

    committed = True
    is_main = True

    def __init__(
        self, name: str, descriptors: tuple[int, ...], store: DescriptorStore | None, metrics: Metrics, journal: Journal
    ) -> None:
        self._name = name
        self._store = store
        self._metrics = metrics
        try:
            found = _Found.among(descriptors)
            self._lock = found.files[LEDGER_FILE]
            self._ledger = Ledger.read(self._lock)
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._words = LastWords(found.files[WORDS_FILE])
            self._deposit = FileDeposit(found.files[FILE_NAME])
            self._main, *self._others = map(found.channel, self._ledger.channels)
        except (OSError, KeyError, ValueError, msgspec.MsgspecError) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            raise NotAdoptable(f"{name}: expected what is left of a migration, found {error!r}") from error
        self._began = trio.current_time() - max(0.0, time.time() - self._ledger.began)
        self.record = SessionRecord(
            self._ledger.route,
            self._main.source.peer,
            metrics,
            journal,
            label=self._ledger.label,
            ident=self._ledger.migration,
        )
        self._intake: Intake | None = None

    def facts(self) -> dict[str, Any]:
        """What there is to say of it at this moment, as of any session; bytes since it was adopted."""
        return {
            "id": self.record.migration,
            "route": self._ledger.route,
            "source": self._main.source.peer,
            "destination": self._main.destination.peer,
            "phase": (Phase.OPAQUE if self._ledger.opaque else Phase.RELEASED).value,
            "machine": self._ledger.machine,
            "committed": True,
            "channels": len(self._others),
            "held_bytes": 0,
            "bytes_to_destination": self.record.relayed_bytes(Direction.TO_DESTINATION),
            "bytes_to_source": self.record.relayed_bytes(Direction.TO_SOURCE),
            "seconds": round(trio.current_time() - self._began, 3),
        }

    def abandon(self, _ending: Ending) -> bool:
        """Nobody can: the guest may be running on the destination."""
        return False

    async def run(self) -> Ending:
        """Carry it to its end.

        Resource handling: closes all that was adopted, and has the service manager close it.

        Error handling: raises nothing.
        """
        self.record.adopted(len(self._others))
        guard = CommitGuard()
        with guard.scope:
            await guard.commit()
            async with trio.open_nursery() as nursery:
                for channel in self._others:
                    nursery.start_soon(self._carry, channel, name=channel.name)
                wire = await self._carry_main(guard)
        self.record.ended(wire.ending, trio.current_time() - self._began, silent=False)
        for channel in (self._main, *self._others):
            channel.source.close()
            channel.destination.close()
            channel.forth.close()
            channel.back.close()
        self._deposit.close()
        self._words.close()
        if self._store is not None:
            self._store.forget(self._name)
        os.close(self._lock)
        return wire.ending

    async def _carry_main(self, guard: CommitGuard) -> Wire:
        ledger, main = self._ledger, self._main
        stream = CommittedStream(
            "another process has released the device state",
            phase=Phase.OPAQUE if ledger.opaque else Phase.RELEASED,
            machine=ledger.machine,
            return_path=ledger.return_path,
            switched=ledger.switched,
        )
        intake = Intake(stream, ledger.label, self._metrics)
        wire = Wire(main.source, main.destination, intake, guard, self.record, (main.forth, main.back), self._words)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.return_path, name="main channel, return path")
            await wire.send(self._deposit)
            await wire.forward()
        intake.close()
        return wire

    async def _carry(self, channel: Carried) -> None:
        def moved(direction: Direction, size: int) -> None:
            self.record.relayed(direction, size)

        def lost(ending: Ending) -> None:
            self.record.journal.debug(ending.reason)

        pipes = (channel.forth, channel.back)
        await ChannelRelay(channel.source, channel.destination, channel.name, moved, lost, pipes).run()


def adopt(
    kept: Mapping[str, tuple[int, ...]], store: DescriptorStore | None, metrics: Metrics, journal: Journal
) -> list[AdoptedMigration]:
    """Every migration that was kept. What is not one is forgotten, and said."""
    adopted = []
    for name, descriptors in kept.items():
        try:
            adopted.append(AdoptedMigration(name, descriptors, store, metrics, journal))
        except NotAdoptable as error:
            journal.error(str(error))
    return adopted
