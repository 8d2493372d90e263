"""A real `proxyd serve` with one route, as a process of its own."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tests.kvmlab.catalogue import LabError
from tests.kvmlab.feed import Feed, read_lines, time_limit
from tests.kvmlab.process import Process

PROXYD = Path(sys.executable).with_name("proxyd")
READY_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxyd: the port that a source migrates to, and what it logs."""

    port: int
    lines: Feed[str]

    def log(self, start: int = 0) -> list[dict[str, Any]]:
        """The log so far, from line *start* on, one object a line."""
        return [json.loads(line) for line in self.lines.items[start:] if line.startswith("{")]


@asynccontextmanager
async def proxyd(
    directory: Path,
    destination_port: int,
    description: bytes,
    allow: tuple[str, ...] = (),
    *,
    rehearsal: Path | None = None,
    profile: str | None = None,
) -> AsyncIterator[Proxy]:
    """Run proxyd towards 127.0.0.1:*destination_port*, a host with this *description*; raises LabError.

    *rehearsal* is the socket of a service that every migration is rehearsed with. With a *profile*, nothing is known of
    the host but what that says.
    """
    host_file = directory / "destination.json"
    host_file.write_bytes(description)
    profile_file = directory / "profile.toml"
    profile_file.write_text(profile or "")
    known = ("destination_host", host_file) if profile is None else ("profile", profile_file)
    config = directory / "proxyd.toml"
    config.write_text(
        "\n".join(
            [
                '[metrics]\nlisten = "127.0.0.1:0"',
                '[log]\nformat = "json"\nlevel = "debug"',
                "" if rehearsal is None else f"[rehearsal]\nsocket = {json.dumps(str(rehearsal))}\nanswer_time_s = 120",
                '[[route]]\nname = "lab"\nlisten = "127.0.0.1:0"',
                f'destination = "127.0.0.1:{destination_port}"',
                f"{known[0]} = {json.dumps(str(known[1]))}",
                f"rehearse = {json.dumps(rehearsal is not None)}",
                f"allow = {json.dumps(list(allow))}",
                # The guests' machine types are older than the QEMU 11.1 that runs them, and prove nothing.
                'postcopy = "sources-10.2"\n',
            ]
        )
    )
    reader, writer = os.pipe()
    process = Process([str(PROXYD), "serve", "--config", str(config)], output=writer)
    os.close(writer)
    lines: Feed[str] = Feed("proxyd")
    try:
        async with trio.lowlevel.FdStream(reader) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(read_lines, stream, lines)
            with time_limit(READY_SECONDS, "proxyd: start"):
                line = await lines.first(lambda text: '"listening"' in text)
            yield Proxy(_port(line), lines)
            status = await process.stop()
            if status:
                raise LabError(f"proxyd: exit status {status} after SIGTERM: {lines.items[-3:]}")
            nursery.cancel_scope.cancel()
    finally:
        await process.stop()


def _port(line: str) -> int:
    """Return the port in proxyd's line about the route's own address."""
    return int(json.loads(line)["listen"].rpartition(":")[2])
