"""Many pairs, one after the other. Results are JSON lines; a run that is broken off goes on where it was."""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kvmlab.catalogue import LabError
from tests.kvmlab.guest import GuestSpec
from tests.kvmlab.host import Host, HostSpec
from tests.kvmlab.lab import Lab
from tests.kvmlab.pair import attempt_directly, attempt_through_proxyd, boot_pair


@dataclass(frozen=True, slots=True)
class Cell:
    """One experiment: a guest like *guest* from one kernel to another, both on *cpu*."""

    source: str
    destination: str
    cpu: str
    guest: GuestSpec

    @property
    def key(self) -> str:
        """Name the experiment in the results file."""
        guest = self.guest
        return f"{self.source}:{self.destination} {self.cpu} {guest.qemu} {guest.vcpus} {guest.devices} {guest.program}"


def parse_pair(text: str) -> tuple[str, str]:
    """``6.12:6.18`` -> source and destination; raises LabError."""
    source, colon, destination = text.partition(":")
    if not (source and colon and destination):
        raise LabError(f"{text}: expected two kernels such as 6.12:6.18")
    return source, destination


def finished(results: Path) -> set[str]:
    """Return the keys of the experiments that *results* has, without those that broke off with an error."""
    if not results.exists():
        return set()
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    return {row["key"] for row in rows if "error" not in row}


async def run_matrix(lab: Lab, cells: Iterable[Cell], results: Path, directory: Path) -> int:
    """Run the *cells* that *results* lacks and append one line each; return how many broke off with an error.

    Raises LabError when there is no cell at all: a matrix that finds nothing to do has not shown anything.
    """
    cells = list(cells)
    if not cells:
        raise LabError("the matrix has no pair")
    done = finished(results)
    errors = 0
    pool = _Hosts(lab)
    for number, cell in enumerate(cells, 1):
        if cell.key in done:
            lab.progress(f"[{number}/{len(cells)}] {cell.key}: done before")
            continue
        lab.progress(f"[{number}/{len(cells)}] {cell.key}")
        started = time.monotonic()
        row: dict[str, Any] = {"key": cell.key, "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        try:
            hosts = await pool.pair(HostSpec(cell.source, cell.cpu), HostSpec(cell.destination, cell.cpu))
            row["releases"] = [host.release for host in hosts]
            row["direct"] = (await attempt_directly(lab, hosts, cell.guest)).to_json()
            row["proxied"] = (await attempt_through_proxyd(lab, hosts, cell.guest, directory)).to_json()
        except* LabError as group:
            row["error"] = "; ".join(str(error) for error in leaves(group))
        if "error" in row:
            errors += 1
            lab.progress(f"{cell.key}: {row['error']}")
            await pool.stop()  # they may be in any state
        row["seconds"] = round(time.monotonic() - started, 1)
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return errors


class _Hosts:
    """The two hosts that are up. A kernel that the next pair needs as well stays up."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._up: dict[tuple[HostSpec, int], Host] = {}

    async def pair(self, source: HostSpec, destination: HostSpec) -> tuple[Host, Host]:
        """Return two different hosts of these kinds."""
        wanted = [(source, 0), (destination, 1 if source == destination else 0)]
        for key in [key for key in self._up if key not in wanted]:
            await self._up.pop(key).stop()
        missing = [key for key in wanted if key not in self._up]
        if len(missing) == len(wanted):
            first, second = await boot_pair(self._lab, source, destination)
            self._up = {wanted[0]: first, wanted[1]: second}
        else:
            for key in missing:
                self._up[key] = await self._lab.boot(key[0])
        return self._up[wanted[0]], self._up[wanted[1]]

    async def stop(self) -> None:
        """Stop both."""
        while self._up:
            await self._up.popitem()[1].stop()


def leaves(group: BaseExceptionGroup[LabError]) -> Iterator[LabError]:
    """Yield the errors in a tree of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
