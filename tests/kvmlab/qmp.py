"""A client for QEMU's monitor protocol (QEMU: docs/interop/qmp-spec.rst), over any stream."""

import json
import math
from typing import Any

import trio

from tests.kvmlab.catalogue import LabError
from tests.kvmlab.feed import Feed, read_lines

Message = dict[str, Any]


class QmpError(LabError):
    """QEMU answered a command with an error, or went away before it answered."""


class Qmp:
    """One monitor. `run` must be running in a nursery while commands are given."""

    def __init__(self, stream: trio.abc.Stream, name: str) -> None:
        self._stream = stream
        self._name = name
        self._lock = trio.Lock()
        self._answers, self._next_answer = trio.open_memory_channel[Message](math.inf)
        self.events: Feed[Message] = Feed(f"{name}: monitor")
        self._lines: Feed[str] = Feed(f"{name}: monitor")

    async def run(self) -> None:
        """Read until QEMU closes the monitor."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_lines, self._stream, self._lines)
            await self._sort()

    async def _sort(self) -> None:
        number = 0
        while True:
            try:
                await self._lines.first(lambda _: True, number)
            except LabError:
                break
            message = json.loads(self._lines.items[number])
            number += 1
            if "event" in message:
                self.events.put(message)
            elif "QMP" not in message:  # the greeting
                self._answers.send_nowait(message)
        self.events.end()
        self._answers.close()

    async def execute(self, command: str, **arguments: object) -> Any:
        """Run *command*; underscores in argument names become dashes. Raises QmpError."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        async with self._lock:
            try:
                text = json.dumps({"execute": command, "arguments": named})
                await self._stream.send_all(text.encode() + b"\n")
                answer = await self._next_answer.receive()
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel) as error:
                raise QmpError(f"{self._name}: {command}: QEMU is gone") from error
        if "error" in answer:
            raise QmpError(f"{self._name}: {command}: {answer['error']['desc']}")
        return answer["return"]

    async def event(self, name: str, **data: object) -> Message:
        """Wait for the event *name* whose data has all of *data*, also one that came earlier; raises FeedEnded."""

        def wanted(event: Message) -> bool:
            return bool(event["event"] == name and data.items() <= event.get("data", {}).items())

        return await self.events.first(wanted)
