"""A crowd of clients that connect and say nothing, or next to nothing; in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

PATIENCE_S = 120

# include/uapi/linux/in.h: choose the port when connecting, so that each pair of addresses has all ports to itself.
_IP_BIND_ADDRESS_NO_PORT = 24

_spawned = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Crowd:
    """Who comes.

    ``size`` connections at once from ``sources`` addresses; who is turned away comes again, ``again`` of them a second.
    Each says ``says``, a byte a ``pause_s``; to a UNIX socket if ``target`` is a path.
    """

    target: int | str
    size: int
    sources: int = 1
    again: int = 500
    says: bytes = b""
    pause_s: float = 1.0


@dataclass(frozen=True)
class Came:
    """What became of them."""

    opened: int
    turned_away: int
    seconds: float


class Standing:
    """``came`` is there once they have gone."""

    def __init__(self) -> None:
        self.came: Came | None = None


@contextmanager
def standing(crowd: Crowd) -> Iterator[Standing]:
    """Let them come, and stay until the end of the block. It begins when all of them have tried."""
    ours, theirs = _spawned.Pipe()
    process = _spawned.Process(target=_stand, args=(theirs, crowd), daemon=True)
    process.start()
    theirs.close()
    found = Standing()
    try:
        assert ours.poll(PATIENCE_S), "the crowd does not come"
        assert ours.recv() == "here"
        yield found
        ours.send("go")
        assert ours.poll(PATIENCE_S), "the crowd does not go"
        found.came = ours.recv()
    finally:
        process.kill()
        process.join()
        ours.close()


class _Clients:
    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.opened = 0
        self.turned_away = 0
        self.epoll = select.epoll()
        self.open: dict[int, tuple[socket.socket, float]] = {}

    def one_more(self) -> None:
        crowd = self.crowd
        if isinstance(crowd.target, str):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            failed = client.connect_ex(crowd.target)
            if failed:  # its queue is full, and a UNIX socket does not wait
                client.close()
                return
        else:
            client = socket.socket()
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            client.bind((f"127.1.{self.opened % crowd.sources // 250}.{self.opened % crowd.sources % 250 + 1}", 0))
            client.connect_ex(("127.0.0.1", crowd.target))
        self.opened += 1
        self.open[client.fileno()] = (client, time.monotonic())
        self.epoll.register(client, select.EPOLLRDHUP)

    def look(self, seconds: float) -> int:
        """How many were turned away since the last look."""
        gone = 0
        for number, _ in self.epoll.poll(seconds):
            client, _ = self.open.pop(number)
            client.close()
            gone += 1
        self.turned_away += gone
        return gone

    def talk(self) -> None:
        """Whoever's time has come says its next byte."""
        now = time.monotonic()
        for client, since in tuple(self.open.values()):
            said = int((now - since) / self.crowd.pause_s)
            before = int((now - since - self.crowd.pause_s / 10) / self.crowd.pause_s)
            if said != before and said <= len(self.crowd.says):
                try:
                    client.send(self.crowd.says[said - 1 : said])
                except OSError:
                    continue  # the next look finds it


def _stand(pipe: Connection, crowd: Crowd) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    began = time.monotonic()
    clients = _Clients(crowd)
    while clients.opened < crowd.size and time.monotonic() < began + PATIENCE_S / 2:
        clients.one_more()
        if clients.opened % 100 == 0:
            clients.look(0)
    pipe.send("here")
    tick = crowd.pause_s / 10 if crowd.says else 0.05
    last, owed = time.monotonic(), 0.0
    while not pipe.poll(tick):
        clients.look(0)
        now = time.monotonic()
        owed = min(owed + (now - last) * crowd.again, crowd.size - len(clients.open))
        last = now
        while owed >= 1:
            clients.one_more()
            owed -= 1
        if crowd.says:
            clients.talk()
    pipe.recv()
    pipe.send(Came(clients.opened, clients.turned_away, time.monotonic() - began))
