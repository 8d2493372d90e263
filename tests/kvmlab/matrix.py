"""Many pairs, several at a time. Results are JSON lines; a run that is broken off goes on where it was.

A results file has three kinds of lines, told apart by their first key:

    host     a host's register list and masks, once for each kernel and CPU: what predictions are made from
    stream   the register lists that a guest's stream carries there, once for each kernel, CPU and guest
    key      one cell: what was predicted, what happened directly and through proxyd; or ``error``, if it broke off
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tests.kvmlab.catalogue import LabError
from tests.kvmlab.feed import time_limit
from tests.kvmlab.guest import GuestSpec
from tests.kvmlab.host import HostSpec
from tests.kvmlab.lab import Lab
from tests.kvmlab.pair import attempt_directly, attempt_through
from tests.kvmlab.prediction import plan_between, plan_row
from tests.kvmlab.station import Station, keep_station, read_stream

CELL_SECONDS = 420
"""Longest time for one cell, with both hosts' boots."""

Place = tuple[HostSpec, int]
"""A host by its kind, and 1 where source and destination are of one kind and this is the second."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One experiment: a guest like *guest* from one kernel to another, both on *cpu*.

    *allow*: the registers that proxyd may change with loss.
    """

    source: str
    destination: str
    cpu: str
    guest: GuestSpec
    allow: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name the experiment in the results file."""
        allow = f" {','.join(self.allow)}" if self.allow else ""
        return f"{self.source}:{self.destination} {self.cpu} {self.guest.key}{allow}"

    @property
    def places(self) -> tuple[Place, Place]:
        """The two hosts that it takes."""
        return (HostSpec(self.source, self.cpu), 0), (
            HostSpec(self.destination, self.cpu),
            int(self.source == self.destination),
        )


def parse_pair(text: str) -> tuple[str, str]:
    """``6.12:6.18`` -> source and destination; raises LabError."""
    source, colon, destination = text.partition(":")
    if not (source and colon and destination):
        raise LabError(f"{text}: expected two kernels such as 6.12:6.18")
    return source, destination


def finished(results: Path) -> set[str]:
    """Return the keys of the experiments that *results* has, without those that broke off with an error."""
    return {row["key"] for row in _rows(results) if "key" in row and "error" not in row}


def _rows(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


async def run_matrix(lab: Lab, cells: Iterable[Cell], results: Path, directory: Path, jobs: int = 1) -> int:
    """Run the *cells* that *results* lacks, *jobs* at a time, and append a line each; return how many broke off.

    Raises LabError when there is no cell at all: a matrix that finds nothing to do has not shown anything.
    """
    cells = list(cells)
    if not cells:
        raise LabError("the matrix has no pair")
    done = finished(results)
    waiting = [cell for cell in cells if cell.key not in done]
    lab.progress(f"{len(cells)} cells, {len(cells) - len(waiting)} of them done before")
    async with trio.open_nursery() as nursery:
        run = _Run(lab, waiting, results, directory, nursery)
        async with trio.open_nursery() as workers:
            for _ in range(jobs):
                workers.start_soon(run.work)
        await run.close()
    return run.errors


class _Run:
    """One run of a matrix: the cells that wait, the hosts that are up, those that a cell has taken."""

    def __init__(self, lab: Lab, waiting: list[Cell], results: Path, directory: Path, nursery: trio.Nursery) -> None:
        self.errors = 0
        self._lab = lab
        self._waiting = waiting
        self._total = len(waiting)
        self._results = results
        self._directory = directory
        self._nursery = nursery
        self._up: dict[Place, Station] = {}
        self._taken: set[Place] = set()
        self._news = trio.Condition()
        self._written = {row[kind] for row in _rows(results) for kind in ("host", "stream") if kind in row}

    async def work(self) -> None:
        """Run cells until none waits."""
        while (cell := await self._take()) is not None:
            try:
                await self._run(cell)
            finally:
                async with self._news:
                    self._taken -= set(cell.places)
                    self._news.notify_all()
            await self._close_idle()

    async def _take(self) -> Cell | None:
        """Take a cell whose hosts are free, and them: of those of the first CPU, one whose hosts have most to do."""
        async with self._news:
            while self._waiting:
                to_do = Counter(place for cell in self._waiting for place in cell.places)
                free = [cell for cell in self._waiting if not self._taken & set(cell.places)]
                if free:
                    first = (free[0].cpu, free[0].guest)
                    alike = [cell for cell in free if (cell.cpu, cell.guest) == first]
                    cell = max(alike, key=lambda cell: sum(to_do[place] for place in cell.places))
                    self._waiting.remove(cell)
                    self._taken |= set(cell.places)
                    return cell
                await self._news.wait()
        return None

    async def _run(self, cell: Cell) -> None:
        number = self._total - len(self._waiting)
        self._lab.progress(f"[{number}/{self._total}] {cell.key}")
        started = time.monotonic()
        row: dict[str, Any] = {"key": cell.key, "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        try:
            with time_limit(CELL_SECONDS, cell.key):
                await self._fill(cell, row)
        except* (LabError, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as group:
            row["error"] = "; ".join(str(error) or repr(error) for error in leaves(group))
        if "error" in row:
            self.errors += 1
            self._lab.progress(f"{cell.key}: {row['error']}")
            for place in cell.places:  # they may be in any state
                await self._close(place)
        row["seconds"] = round(time.monotonic() - started, 1)
        self._write(row)

    async def _fill(self, cell: Cell, row: dict[str, Any]) -> None:
        source, destination = [await self._station(place) for place in cell.places]
        for station in (source, destination):
            await self._describe(station, cell.guest)
        # Before anything moves, and from what the hosts say of themselves alone.
        qemu = cell.guest.qemu
        plan = plan_between(source.description(qemu), destination.description(qemu), cell.guest.vcpus, cell.allow)
        row["predicted"] = plan_row(plan)
        hosts = (source.host, destination.host)
        row["releases"] = [host.release for host in hosts]
        row["direct"] = (await attempt_directly(self._lab, hosts, cell.guest)).to_json()
        proxy = await destination.proxy(qemu, cell.allow)
        row["proxied"] = (await attempt_through(self._lab, hosts, cell.guest, proxy)).to_json()

    async def _describe(self, station: Station, guest: GuestSpec) -> None:
        """Write what predictions need, once."""
        spec = station.host.spec
        name = f"{spec.kernel} {spec.cpu}"
        if name not in self._written:
            self._written.add(name)
            self._write({"host": name, "listed": station.listed})
        stream = f"{name} {guest.key}"
        if stream not in self._written:
            self._written.add(stream)
            version, vcpus = await read_stream(station.host, guest)
            self._write({"stream": stream, "qemu": version, "vcpus": vcpus})

    def _write(self, row: dict[str, Any]) -> None:
        with self._results.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    async def _station(self, place: Place) -> Station:
        if place not in self._up:
            self._up[place] = await self._nursery.start(keep_station, self._lab, place[0], self._directory)
        return self._up[place]

    async def _close(self, place: Place) -> None:
        station = self._up.pop(place, None)
        if station is not None:
            station.leave.set()
            await station.gone.wait()

    async def _close_idle(self) -> None:
        """End the hosts that no waiting cell takes before the CPU changes: together they would not fit into memory."""
        now = [cell for cell in self._waiting if cell.cpu == self._waiting[0].cpu]
        wanted = {place for cell in now for place in cell.places} | self._taken
        for place in [place for place in self._up if place not in wanted]:
            await self._close(place)

    async def close(self) -> None:
        """End all hosts."""
        for place in list(self._up):
            await self._close(place)


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Yield the errors in a tree of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
