"""What operators and orchestrators say to a running daemon, and what it answers.

One connection is one request and one answer, each one line of JSON on a UNIX socket. Both have the version of this
protocol; a daemon and a client that differ in it say so instead of guessing.

    {"version": 1, "command": "abort", "arguments": {"id": "5f0c6a2b91d4"}}
    {"version": 1, "result": {...}}
    {"version": 1, "error": {"kind": "refused", "message": "..."}}
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec

VERSION: Final = 1

# A request names a route with its files and registers; 64 KiB is far more than anybody's list of those.
MAX_REQUEST_BYTES: Final = 64 << 10

# An answer lists every migration: some 500 bytes for each of up to 2048 connections.
MAX_ANSWER_BYTES: Final = 4 << 20

DEFAULT_SOCKET: Final = "/run/proxyd-control/control.sock"


class ErrorKind(StrEnum):
    """Why a request was not carried out; a client's exit code follows from it."""

    BAD_INPUT = "bad_input"  # the arguments are wrong
    REFUSED = "refused"  # it must not be done now
    INTERNAL = "internal"  # a bug of the daemon's


class ControlError(Exception):
    """A request that was not carried out. ``str()`` is one sentence."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line from a client."""

    version: int
    command: str
    arguments: dict[str, Any] = {}


class Failure(msgspec.Struct, frozen=True):
    """Why not."""

    kind: ErrorKind
    message: str


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line to a client: ``result`` or ``error``."""

    version: int
    result: dict[str, Any] | None = None
    error: Failure | None = None


def read_request(line: bytes) -> Request:
    """Read a line. Raises :class:`ControlError`."""
    try:
        request = msgspec.json.decode(line, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ControlError(ErrorKind.BAD_INPUT, f"a request expected, found: {error}") from error
    if request.version != VERSION:
        message = f"version {VERSION} of the control protocol expected, found {request.version}"
        raise ControlError(ErrorKind.BAD_INPUT, message)
    return request


def write_answer(result: dict[str, Any] | ControlError) -> bytes:
    """The line for a result, or for an error."""
    if isinstance(result, ControlError):
        answer = Answer(VERSION, error=Failure(result.kind, str(result)))
    else:
        answer = Answer(VERSION, result=result)
    return msgspec.json.encode(answer) + b"\n"
