"""What a matrix has found, as facts: the lines of a results file, and the short form of them that is committed.

The short form (``results/*.jsonl.xz``) keeps what is judged and shown, and leaves out counters, times and most of
proxyd's log.
"""

import json
import lzma
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from formats.arm64.register_id import name_of

DIFFERENCE = re.compile(r"vCPU (\d+) (\w+) (0x[0-9a-f]+) -> (0x[0-9a-f]+)")
ID = re.compile(r"\((0x[0-9a-f]+)\)")
REFUSAL = re.compile(
    r"vcpu \d+: (?P<register>\S+) \(0x[0-9a-f]+\)(?: field (?P<field>\S+))?(?: = 0x[0-9a-f]+)?"
    r"(?:, 0x[0-9a-f]+ at the destination)?: (?P<verdict>\w+): (?P<reason>.*?)(?: \(allow = .*\))?"
)
HARMLESS = re.compile(r"warning: hub 0 is not connected")
"""A line that says nothing about the migration."""


@dataclass(frozen=True, slots=True, order=True)
class Touched:
    """A register, or a field of one, that proxyd changed."""

    vcpu: int
    action: str
    register: str
    old: str | None
    new: str | None
    verdict: str

    @property
    def what(self) -> str:
        """Register, field and action, without vCPU and values."""
        return f"{self.action} {self.register}"


@dataclass(frozen=True, slots=True, order=True)
class Noticed:
    """A register of which the guest found another value."""

    vcpu: int
    register: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.register} {self.was} -> {self.now}"


class Refusal(NamedTuple):
    """What a refusal is about, without vCPU and values."""

    register: str
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class Move:
    """One migration. *end*: ``loads``, ``fails`` (at the destination), ``refused`` (by proxyd) or ``lost``.

    *runs_on* is where the guest went on without a break, if it did. *errors* are the destination's lines on stderr.
    """

    end: str
    runs_on: str | None
    errors: tuple[str, ...]
    changed: tuple[Noticed, ...]
    identity: tuple[Noticed, ...]
    touched: tuple[Touched, ...] = ()
    told: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def noticed(self) -> tuple[Noticed, ...]:
        """All that the guest found different."""
        return self.changed + self.identity


@dataclass(frozen=True, slots=True)
class Result:
    """One cell. *told* of a move are the registers that proxyd's notices name."""

    source: str
    destination: str
    cpu: str
    qemu: str
    vcpus: int
    devices: str
    program: str
    allow: tuple[str, ...]
    date: str
    direct: Move
    proxied: Move
    predicted: Mapping[str, Any]

    @property
    def guest(self) -> str:
        """The guest's key."""
        return f"{self.qemu} {self.vcpus} {self.devices} {self.program}"

    @property
    def key(self) -> str:
        """The cell's key."""
        allow = f" {','.join(self.allow)}" if self.allow else ""
        return f"{self.source}:{self.destination} {self.cpu} {self.guest}{allow}"

    @property
    def upwards(self) -> bool:
        """Whether it goes to a newer kernel."""
        return release(self.source) < release(self.destination)


@dataclass(frozen=True, slots=True)
class Results:
    """A whole file: cells by key; hosts (``6.12 max``) and streams (``6.12 max 10.0 1 plain checker``) as written."""

    cells: Mapping[str, Result]
    hosts: Mapping[str, Mapping[str, Any]]
    streams: Mapping[str, Mapping[str, Any]]
    broken: Mapping[str, str]


def refusal_of(text: str) -> Refusal:
    """Read one line of proxyd's; what does not look like a refusal of a register is taken whole."""
    match = REFUSAL.fullmatch(text)
    if match is None:
        return Refusal("", "", text)
    field = f".{match['field']}" if match["field"] else ""
    return Refusal(match["register"] + field, match["verdict"], match["reason"])


def release(kernel: str) -> tuple[int, ...]:
    """``6.12`` -> (6, 12), for order."""
    return tuple(map(int, kernel.split(".")))


def read_results(paths: Iterable[Path]) -> Results:
    """Read results files, plain or compressed, raw or short; a later line takes an earlier one's place."""
    cells: dict[str, Result] = {}
    hosts: dict[str, Mapping[str, Any]] = {}
    streams: dict[str, Mapping[str, Any]] = {}
    broken: dict[str, str] = {}
    for path in paths:
        data = path.read_bytes()
        text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode()
        for row in map(json.loads, text.splitlines()):
            if "host" in row:
                hosts[row["host"]] = row["listed"]
            elif "stream" in row:
                streams[row["stream"]] = row
            elif "error" in row:
                broken[row["key"]] = row["error"]
            else:
                result = _short(row) if "cell" in row else _condensed(row)
                cells[result.key] = result
                broken.pop(result.key, None)
    return Results(cells, hosts, streams, broken)


def write_short(results: Results, path: Path) -> None:
    """Write the short form, compressed; the same results always give the same bytes."""
    rows: list[dict[str, Any]] = [{"host": name, "listed": results.hosts[name]} for name in sorted(results.hosts)]
    rows += [dict(results.streams[name]) for name in sorted(results.streams)]
    rows += [{"cell": asdict(results.cells[key])} for key in sorted(results.cells)]
    lines = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    path.write_bytes(lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME))


def _short(row: Mapping[str, Any]) -> Result:
    cell = row["cell"]
    moves = {name: _short_move(cell[name]) for name in ("direct", "proxied")}
    return Result(**{**cell, **moves, "allow": tuple(cell["allow"])})


def _short_move(row: Mapping[str, Any]) -> Move:
    return Move(
        end=row["end"],
        runs_on=row["runs_on"],
        errors=tuple(row["errors"]),
        changed=tuple(Noticed(**each) for each in row["changed"]),
        identity=tuple(Noticed(**each) for each in row["identity"]),
        touched=tuple(Touched(**each) for each in row["touched"]),
        told=tuple(row["told"]),
        refusals=tuple(row["refusals"]),
    )


def _condensed(row: Mapping[str, Any]) -> Result:
    pair, cpu, qemu, vcpus, devices, program, *allow = row["key"].split()
    source, _, destination = pair.partition(":")
    return Result(
        source=source,
        destination=destination,
        cpu=cpu,
        qemu=qemu,
        vcpus=int(vcpus),
        devices=devices,
        program=program,
        allow=tuple(allow[0].split(",")) if allow else (),
        date=row["started"][:10],
        direct=_condensed_move(row["direct"]),
        proxied=_condensed_move(row["proxied"]),
        predicted=row["predicted"],
    )


def _condensed_move(row: Mapping[str, Any]) -> Move:
    log = row["proxy_log"]
    refusals = tuple(line["message"] for line in log if line["level"] == "warning" and "verdict" in line)
    outcome = row["outcome"]
    if outcome["arrival"] == "running":
        end = "loads"
    elif outcome["source_running"]:
        end = "refused" if refusals else "fails"
    else:
        end = "lost"
    return Move(
        end=end,
        runs_on=row["runs_on"] if _continues(row) else None,
        errors=tuple(line for line in outcome["complaints"] if not HARMLESS.search(line)),
        changed=_noticed(row["changed"]),
        identity=_noticed(row["identity"]),
        touched=tuple(_touched(line) for line in log if "register" in line and "verdict" in line),
        told=tuple(sorted({_name(line["register"]) for line in log if "register" in line and "verdict" not in line})),
        refusals=refusals,
    )


def _continues(row: Mapping[str, Any]) -> bool:
    """As `Attempt.continues`: every vCPU counted on from where it was."""
    counts = zip(row["counts_before"], row["counts_resumed"], row["counts_after"], strict=True)
    return row["runs_on"] is not None and all(before <= resumed < after for before, resumed, after in counts)


def _noticed(texts: Iterable[str]) -> tuple[Noticed, ...]:
    matches = [DIFFERENCE.fullmatch(text) for text in texts]
    return tuple(Noticed(int(m[1]), m[2], m[3], m[4]) for m in matches if m)


def _touched(line: Mapping[str, Any]) -> Touched:
    action = {"register removed": "remove", "register set": "set", "register added": "add"}[line["message"]]
    field = f".{line['field']}" if line.get("field") else ""
    return Touched(
        line["vcpu"], action, _name(line["register"]) + field, line.get("old"), line.get("new"), line["verdict"]
    )


def _name(described: str) -> str:
    """``TCR2_EL1 (0x603000000013c103)`` -> its name."""
    match = ID.search(described)
    return name_of(int(match[1], 16)) if match else described
