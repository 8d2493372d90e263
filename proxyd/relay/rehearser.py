"""The daemon's side of a rehearsal: a connection to the service that may ask the destination's KVM.

One connection a migration, opened before the destination is dialled, so that the service's process has started, and KVM
has been found and compared with its description, long before the guest stands still. The daemon itself has no right on
/dev/kvm and does not import :mod:`proxyd.kvm`.

Everything that goes wrong ends in :class:`RehearsalUnavailable`, and a migration that was to be rehearsed does not go
on without.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final, Protocol

import trio

from proxyd.rehearsal_protocol import (
    Answer,
    Failed,
    MessageReader,
    Performed,
    Prepare,
    Prepared,
    ProtocolError,
    Question,
    encode,
    perform_request,
)
from proxyd.rewrite.freshness import check_freshness
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.plan import Plan
from proxyd.rewrite.rehearsal import Rehearsal
from proxyd.rewrite.vcpu_features import features_shown
from proxyd.routes import RehearsalService

_CHUNK: Final = 1 << 18


class RehearsalUnavailable(Exception):
    """No answer that could be relied on. ``str()`` is one sentence with the socket's path."""


class _ConnectionLost(RehearsalUnavailable):
    """The service's process is not there any more."""


class Rehearser(Protocol):
    """What a session needs. Tests have a scripted one."""

    async def prepare(self) -> tuple[str, ...]:
        """See whether it can be done, and what is worth a warning."""

    async def perform(self, plan: Plan) -> Rehearsal:
        """Let KVM try what the plan makes of the guest. Raises :class:`RehearsalUnavailable`."""

    def close(self) -> None:
        """Nothing more will be asked."""


RehearserFactory = Callable[[RehearsalService, HostDescription | None], Rehearser]


class ServiceRehearser:
    """One migration's connection. ``host``: what the route says of the destination, None where it says nothing."""

    def __init__(self, service: RehearsalService, host: HostDescription | None) -> None:
        self._service = service
        self._host = host
        self._stream: trio.SocketStream | None = None
        self._reader = MessageReader()

    async def prepare(self) -> tuple[str, ...]:
        """Connect, and ask what a vCPU has there; returns what is worth a warning.

        Raises :class:`RehearsalUnavailable`, and :class:`~proxyd.rewrite.freshness.StaleDescription`.
        """
        answer = await self._within_time(Prepare(_features_of(self._host)))
        if not isinstance(answer, Prepared):
            raise self._unavailable(f"what a vCPU has was asked for, found {_what(answer)}")
        if self._host is None:
            return ()
        return check_freshness(self._host, answer.kernel, answer.features, answer.registers)

    async def perform(self, plan: Plan) -> Rehearsal:
        """As :class:`Rehearser`. A service that ended while memory was copied is started once more."""
        answer = await self._within_time(perform_request(plan.rewritten, plan.vcpus))
        if not isinstance(answer, Performed):
            raise self._unavailable(f"a rehearsal was asked for, found {_what(answer)}")
        if answer.rehearsal.vcpus != len(plan.rewritten):
            raise self._unavailable(f"{len(plan.rewritten)} vCPUs were sent, {answer.rehearsal.vcpus} rehearsed")
        return answer.rehearsal

    def close(self) -> None:
        """End the connection, and with it the service's process. Calling it again does no harm."""
        if self._stream is not None:
            self._stream.socket.close()
            self._stream = None

    async def _within_time(self, question: Question) -> Answer:
        """The answer, or :class:`RehearsalUnavailable`; no longer than the route allows."""
        limit = self._service.answer_s
        with trio.move_on_after(limit):
            fresh = self._stream is None
            try:
                return await self._ask(question)
            except _ConnectionLost:
                if fresh:
                    raise
            self.close()
            return await self._ask(question)
        self.close()
        raise self._unavailable(f"no answer within {limit:g} s (rehearsal.answer_time_s)")

    async def _ask(self, question: Question) -> Answer:
        try:
            stream = self._stream or await self._connect()
            await stream.send_all(encode(question))
            while chunk := await stream.receive_some(_CHUNK):
                for message in self._reader.feed(chunk):
                    if isinstance(message, Failed):
                        raise self._unavailable(message.reason)
                    if isinstance(message, Question):
                        raise self._unavailable(f"an answer expected, found {_what(message)}")
                    return message
        except trio.BrokenResourceError as error:
            raise _ConnectionLost(self._sentence("the service broke the connection")) from error
        except ProtocolError as error:
            raise self._unavailable(str(error)) from error
        raise _ConnectionLost(self._sentence("the service ended without an answer"))

    async def _connect(self) -> trio.SocketStream:
        self._reader = MessageReader()
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        try:
            await sock.connect(self._service.socket)
        except OSError as error:
            sock.close()
            number = error.errno or errno.EIO
            raise self._unavailable(f"cannot connect: {os.strerror(number).lower()}") from error
        self._stream = trio.SocketStream(sock)
        return self._stream

    def _unavailable(self, reason: str) -> RehearsalUnavailable:
        return RehearsalUnavailable(self._sentence(reason))

    def _sentence(self, reason: str) -> str:
        return f"not rehearsed, and so not released: {self._service.socket}: {reason}"


def _features_of(host: HostDescription | None) -> tuple[str, ...] | None:
    """Those of the vCPU that is described; a description that does not say shows them by its registers."""
    if host is None:
        return None
    return host.features if host.features is not None else features_shown(host.registers)


def _what(message: Answer | Question) -> str:
    return type(message).__name__.lower()
