"""One live migration, and what became of it at both ends."""

import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import trio

from tests.kvmlab.catalogue import LabError
from tests.kvmlab.feed import FeedEnded, first_of, time_limit
from tests.kvmlab.guest import Guest
from tests.kvmlab.host import GATEWAY
from tests.kvmlab.mode import Mode
from tests.kvmlab.qmp import Message

MIGRATION_SECONDS = 120
ENDS = ("completed", "failed", "cancelled")


class Arrival(StrEnum):
    """What became of the destination's QEMU."""

    RUNNING = "running"
    EXITED = "exited"
    UNTOUCHED = "untouched"
    """It still waits: no byte of the migration came."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a migration ended. *complaints* are the destination's lines on stderr, *states* the source's, in order."""

    source_status: str
    source_error: str | None
    source_running: bool
    arrival: Arrival
    exit_status: int | None
    complaints: tuple[str, ...]
    seconds: float
    downtime_ms: int | None
    states: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the outcome for a results file."""
        return {**asdict(self), "seconds": round(self.seconds, 2)}


async def migrate(source: Guest, destination: Guest, port: int) -> Outcome:
    """Migrate through 127.0.0.1:*port* of this machine: the destination's own, a proxy's or a recorder's.

    Returns when both ends know how it ended; raises LabError when one does not come to an end.
    """
    try:
        return await _migrate(source, destination, port)
    except LabError as error:
        raise LabError(
            f"{error}; {source.name}: {_states(source)}; {destination.name}: {_states(destination)}"
        ) from error


def _states(guest: Guest) -> str:
    """The states of migration that QEMU went through, and what it complained about."""
    return ", ".join([*guest.states(), *guest.complaints()])


async def _migrate(source: Guest, destination: Guest, port: int) -> Outcome:
    started = time.monotonic()
    with time_limit(MIGRATION_SECONDS, f"migration from {source.host.release} to {destination.host.release}"):
        limits = {"max_bandwidth": source.spec.mode.bandwidth, "downtime_limit": source.spec.mode.downtime_limit_ms}
        await source.qmp.execute("migrate-set-parameters", **limits)
        earlier = len(source.qmp.events.items)
        await source.qmp.execute("migrate", uri=f"tcp:{GATEWAY}:{port}")
        if source.spec.mode is Mode.POSTCOPY:
            await source.qmp.events.first(_has_begun, earlier)
            await source.qmp.execute("migrate-start-postcopy")
        await source.qmp.events.first(_is_end, earlier)
        result = await source.qmp.execute("query-migrate")
        if result["status"] == "completed" or _was_touched(destination):
            await first_of(lambda: _resumes(destination, 0), destination.exited)
        exit_status = await destination.exited() if destination.has_exited() else None
        if exit_status is not None:
            arrival = Arrival.EXITED
        else:
            arrival = Arrival.RUNNING if await destination.running() else Arrival.UNTOUCHED
        stopped = any(event["event"] == "STOP" for event in source.qmp.events.items[earlier:])
        if result["status"] != "completed" and stopped:
            # QEMU says "failed" before it has started its guest again.
            await first_of(lambda: _resumes(source, earlier), source.exited)
        return Outcome(
            source_status=result["status"],
            source_error=result.get("error-desc"),
            source_running=await source.running(),
            arrival=arrival,
            exit_status=exit_status,
            complaints=tuple(destination.complaints()),
            seconds=time.monotonic() - started,
            downtime_ms=result.get("downtime"),
            states=tuple(source.states()),
        )


def _is_end(event: Message) -> bool:
    return event["event"] == "MIGRATION" and event["data"]["status"] in ENDS


def _has_begun(event: Message) -> bool:
    return event["event"] == "MIGRATION" and event["data"]["status"] in ("active", *ENDS)


async def _resumes(guest: Guest, start: int) -> None:
    """Wait until the guest runs. When its monitor closes instead, wait on: the exit status is about to come."""
    try:
        await guest.qmp.events.first(lambda event: event["event"] == "RESUME", start)
    except FeedEnded:
        await trio.sleep_forever()


def _was_touched(destination: Guest) -> bool:
    """Tell whether a stream has reached the destination; one that was touched ends or runs."""
    return destination.has_exited() or any(
        event["event"] == "MIGRATION" and event["data"]["status"] not in ("setup", "none")
        for event in destination.qmp.events.items
    )
