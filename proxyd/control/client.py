"""The other end of the control socket, for the command line: one request, one answer, blocking."""

from __future__ import annotations

import socket
from typing import Any, Final

import msgspec

from proxyd.control.protocol import MAX_ANSWER_BYTES, VERSION, Answer, ControlError, Request

# A reload reads the configuration's files and the knowledge base, which takes a second on a slow host.
TIMEOUT_S: Final = 60.0


class DaemonUnreachable(Exception):
    """No daemon answers. ``str()`` is one sentence."""


def ask(path: str, command: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send one request to the daemon behind the socket ``path``; returns its result.

    :raises DaemonUnreachable: nobody answers there, or not in time, or not in this protocol.
    :raises ControlError: the daemon says no.
    """
    line = msgspec.json.encode(Request(VERSION, command, arguments or {})) + b"\n"
    data = b""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(path)
            connection.sendall(line)
            while b"\n" not in data and len(data) <= MAX_ANSWER_BYTES:
                chunk = connection.recv(1 << 16)
                if not chunk:
                    break
                data += chunk
    except OSError as error:
        why = error.strerror or str(error)
        raise DaemonUnreachable(f"{path}: expected a running proxyd ([control] socket), found: {why}") from error
    try:
        answer = msgspec.json.decode(data, type=Answer)
    except msgspec.DecodeError as error:
        raise DaemonUnreachable(f"{path}: expected proxyd's answer, found: {error}") from error
    if answer.error is not None:
        raise ControlError(answer.error.kind, answer.error.message)
    return answer.result or {}
