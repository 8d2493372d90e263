"""A QMP client: commands, their answers, and events as they come. Mirrors docs/interop/qmp-spec of QEMU.

It speaks to one end of a socket pair whose other end QEMU inherits, so there is nothing to wait for or to
clean up. What it is not: it has no out-of-band commands and no command queue.
"""

import json
from typing import Any

import trio


class QmpError(Exception):
    """QEMU refused a command; the message is QEMU's."""


class Qmp:
    """One monitor connection; :meth:`run` must be running in a nursery for anything else to work."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._answers_in, self._answers = trio.open_memory_channel[dict[str, Any]](1)
        self.events: list[dict[str, Any]] = []
        self.news = trio.lowlevel.ParkingLot()
        """Unparked at every event and at the end of the connection."""

    async def run(self) -> None:
        """Read until QEMU closes the monitor."""
        async with self._answers_in:
            rest = b""
            try:
                async for chunk in self._stream:
                    *lines, rest = (rest + chunk).split(b"\n")
                    for message in map(json.loads, lines):
                        if "event" in message:
                            self.events.append(message)
                            self.news.unpark_all()
                        elif "QMP" not in message:
                            await self._answers_in.send(message)
            except trio.BrokenResourceError:
                pass  # QEMU was killed
        self.news.unpark_all()

    async def execute(self, command: str, **arguments: object) -> Any:
        """Run *command* and return what it returns; raises QmpError."""
        request = {"execute": command, "arguments": arguments}
        await self._stream.send_all(json.dumps(request).encode() + b"\n")
        answer = await self._answers.receive()
        if "error" in answer:
            raise QmpError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def statuses(self) -> list[str]:
        """Return the states that the migration went through so far."""
        return [event["data"]["status"] for event in self.events if event["event"] == "MIGRATION"]
