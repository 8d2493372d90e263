"""A daemon that a thread plays: it answers each request with the next of the lines that it was given."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Played:
    """The socket, and the requests that came."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.requests: list[dict[str, Any]] = []

    def answer(self, listener: socket.socket, lines: tuple[bytes, ...]) -> None:
        for line in lines:
            connection, _ = listener.accept()
            with connection:
                data = b""
                while not data.endswith(b"\n"):
                    data += connection.recv(65536)
                self.requests.append(json.loads(data))
                connection.sendall(line)


@contextmanager
def a_daemon(directory: Path, *lines: bytes) -> Iterator[Played]:
    """Play a daemon until all its lines are said."""
    path = directory / "control.sock"
    path.unlink(missing_ok=True)
    played = Played(str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(played.path)
        listener.listen()
        thread = threading.Thread(target=played.answer, args=(listener, lines), daemon=True)
        thread.start()
        yield played
        thread.join(10)
        assert not thread.is_alive(), "fewer requests came than there are answers"
