"""The daemon's end of the control socket.

Clients are few and local, and each gets one answer. None of them can hold anything up: requests are bounded in size,
clients in number and in time, and a client that does not read its answer is dropped. When there are too many, the
oldest that has not asked anything yet makes room.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

from proxyd.control.protocol import MAX_REQUEST_BYTES, ControlError, ErrorKind, read_request, write_answer
from proxyd.journal import Journal
from proxyd.relay.channel import SocketLeg
from proxyd.relay.listening import Listeners

# An orchestrator may ask for many migrations at once; more than this is a loop that went wrong.
MAX_CLIENTS: Final = 32

# For a request to come whole, and for an answer to be taken. What is asked for may take longer: a reload reads files.
CLIENT_TIME_S: Final = 10.0

Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class ControlServer:
    """Answers requests with the ``commands`` that the daemon gives it: name to function.

    A command returns its result, or raises :class:`~proxyd.control.protocol.ControlError`.
    """

    def __init__(self, listeners: Listeners, commands: Mapping[str, Command], journal: Journal) -> None:
        self.endpoint = listeners.endpoint
        self._listeners = listeners
        self._commands = commands
        self._journal = journal
        self._clients = 0
        self._asking: dict[SocketLeg, None] = {}  # those whose request is not here yet, in the order of accept
        self._scope = trio.CancelScope()
        self._accepting = trio.CancelScope()
        self.ended = trio.Event()

    async def serve(self) -> None:
        """Answer until :meth:`close`.

        Error handling: what goes wrong with a client stays with that client.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                with self._accepting:
                    await trio.serve_listeners(self._accept, self._listeners.listeners, handler_nursery=nursery)
        self.ended.set()

    def close(self) -> None:
        """Answer nobody any more."""
        self._scope.cancel()
        if not self._accepting.cancel_called:
            self._listeners.close()

    def release(self) -> None:
        """Answer those who have asked; another process takes the next ones, on the same socket."""
        self._accepting.cancel()
        self._listeners.release()

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            leg = SocketLeg.take(stream)
        except OSError:
            return  # gone already
        self._clients += 1
        try:
            if self._clients > MAX_CLIENTS and self._asking:
                oldest = next(iter(self._asking))
                del self._asking[oldest]
                oldest.close()  # its task sees that, and ends
                await self._serve_client(leg)
            elif self._clients > MAX_CLIENTS:
                error = ControlError(ErrorKind.REFUSED, f"{MAX_CLIENTS} clients are being served, as many as may be")
                await self._send(leg, write_answer(error))
            else:
                await self._serve_client(leg)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it did not wait for its answer
        finally:
            self._clients -= 1
            leg.close()

    async def _serve_client(self, leg: SocketLeg) -> None:
        self._asking[leg] = None
        try:
            line = await self._receive(leg)
        finally:
            self._asking.pop(leg, None)
        if line is None:
            return
        try:
            answer = write_answer(await self._perform(line, leg.peer))
        except ControlError as error:
            self._journal.warning(f"control: {error}", client=leg.peer)
            answer = write_answer(error)
        except Exception as error:  # noqa: BLE001 - a client's bug-finding must not end the daemon
            self._journal.error("control: a bug of proxyd's; please report it with these lines", exc_info=error)
            answer = write_answer(ControlError(ErrorKind.INTERNAL, f"a bug of proxyd's: {error!r}"))
        await self._send(leg, answer)

    async def _perform(self, line: bytes, client: str) -> dict[str, Any]:
        request = read_request(line)
        command = self._commands.get(request.command)
        if command is None:
            known = ", ".join(sorted(self._commands))
            message = f"a command among {known} expected, found {request.command!r}"
            raise ControlError(ErrorKind.BAD_INPUT, message)
        tell = self._journal.debug if request.command == "status" else self._journal.info
        tell("control", command=request.command, client=client, **_fields(request.arguments))
        return await command(request.arguments)

    async def _receive(self, leg: SocketLeg) -> bytes | None:
        """A line, or None from a client that does not send one."""
        line = b""
        with trio.move_on_after(CLIENT_TIME_S):
            while b"\n" not in line:
                chunk = await leg.receive_some()
                line += chunk
                if not chunk or len(line) > MAX_REQUEST_BYTES:
                    return None
            return line
        return None

    async def _send(self, leg: SocketLeg, answer: bytes) -> None:
        with trio.move_on_after(CLIENT_TIME_S):
            await leg.send_buffers((answer,))


def _fields(arguments: dict[str, Any]) -> dict[str, str]:
    """Arguments as fields of a log line, none of which is one of the line's own."""
    return {f"argument_{key}": str(value) for key, value in arguments.items()}
