"""One daemon takes another's place, both in the test's own process; nothing is played but how it is started."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from proxyd.daemon import Daemon
from proxyd.predecessor import Predecessor
from proxyd.successor import Successor, UpgradeFailed
from proxyd.upgrade import CannotTakeOver
from proxyd.upgrade_link import Kind, Link, Message
from tests.proxyd.relay.stage import SHUT_0, ScriptedRewriter, a_journal
from tests.proxyd.relay.wires import Door, a_door, connect, read_exactly, read_to_rst, reset
from tests.proxyd.test_daemon import RecordingNotifier, Running, a_snapshot, route, running, text

COMMAND = ["proxyd", "serve"]


class Process:
    """What the old daemon knows of a new one that is a task here."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()

    def poll(self) -> None:
        """Real ones are nobody's child by then."""

    def kill(self) -> None:
        self.scope.cancel()

    async def wait(self) -> None:
        await self.ended.wait()


class Upgrades:
    """An old daemon, and what is started in its place and in the place of that."""

    def __init__(self, path: Path, content: str, old: Running, nursery: trio.Nursery) -> None:
        self.old = old
        self.new: list[Running] = []
        self.links: list[Link] = []
        self.before_it_is_ready: Callable[[], object] = lambda: None
        self._path = path
        self._content = content
        self._nursery = nursery

    async def start(self, command: Sequence[str]) -> Successor:
        """Stands for :meth:`Successor.start`."""
        assert command == COMMAND
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = Process()
        self._nursery.start_soon(self._run, Link(theirs), process)
        self.links.append(Link(ours))
        return Successor(cast("trio.Process", process), self.links[-1])

    async def _run(self, link: Link, process: Process) -> None:
        link.send_now(Message(Kind.STARTED))  # without a process id, nobody kills the test
        predecessor = Predecessor(link)
        inheritance = await predecessor.inherit()
        journal, told = a_journal()
        notifier = RecordingNotifier()
        daemon = Daemon(
            a_snapshot(self._path, self._content),
            notifier,
            journal,
            lambda _route: ScriptedRewriter(),
            inherited=inheritance.inherited,
            command=COMMAND,
            predecessor=(predecessor, inheritance),
        )
        await daemon.open()
        self.before_it_is_ready()
        new = Running(daemon, self._path, notifier, told)
        self.new.append(new)
        try:
            with process.scope:
                await new.run()
        except CannotTakeOver as error:
            predecessor.refuse(str(error))
        finally:
            daemon.ports.close()
            inheritance.sockets.close()
            link.close()
            process.ended.set()


@asynccontextmanager
async def upgrades(path: Path, monkeypatch: pytest.MonkeyPatch, door: Door) -> AsyncIterator[Upgrades]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    content = text(route("lab", door, listen=port)) + f'[control]\nsocket = "{path.with_name("control")}"\n'
    async with running(path, content, command=COMMAND) as old, trio.open_nursery() as nursery:
        it = Upgrades(path, content, old, nursery)
        monkeypatch.setattr(Successor, "start", it.start)
        yield it
        for new in it.new:
            new.slam()
        old.slam()
        for link in it.links:
            link.close()
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


async def migrates(by: Running, door: Door, host: str = "127.0.0.1") -> None:
    """A migration of ``host``, whoever accepts it, is carried by ``by``."""
    before = by.sample("proxyd_migrations_total", outcome="completed", route="lab")
    port = by.daemon.listening.routes["lab"].port
    source = await trio.open_tcp_stream("127.0.0.1", port, local_address=host)
    await source.send_all(b"QEVM/ram[state]")
    destination = await door.next()
    await read_exactly(destination, 15)
    await destination.send_all(SHUT_0)
    await read_exactly(source, len(SHUT_0))
    await destination.aclose()
    await source.aclose()
    await wait_all_tasks_blocked()
    assert by.sample("proxyd_migrations_total", outcome="completed", route="lab") == before + 1


async def test_an_idle_daemon_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door() as door, upgrades(path, monkeypatch, door) as it:
        await it.old.daemon.upgrade()
        with trio.fail_after(30):
            await it.old.ended.wait()
        await migrates(it.new[0], door)


async def test_what_has_begun_is_finished_and_the_rest_is_passed_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_door() as door, upgrades(path, monkeypatch, door) as it:
        source = await it.old.source()
        await source.send_all(b"QEVM/ram")
        destination = await door.next()
        assert await read_exactly(destination, 8) == b"QEVM/ram"
        await it.old.daemon.upgrade()
        await migrates(it.new[0], door, "127.0.0.2")  # another source: no channel of the migration here
        with pytest.raises(UpgradeFailed, match="the process before this one still accepts connections"):
            await it.new[0].daemon.upgrade()
        assert not it.old.ended.is_set()
        await source.send_all(b"[state]")
        assert await read_exactly(destination, 7) == b"<state>"
        await destination.send_all(SHUT_0)
        await read_exactly(source, len(SHUT_0))
        await destination.aclose()
        await source.aclose()
        with trio.fail_after(30):
            await it.old.ended.wait()
        await migrates(it.new[0], door)
        await it.new[0].daemon.upgrade()
        await migrates(it.new[1], door)


async def test_one_that_drains_meanwhile_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the new one is ended, whatever it has come to."""
    async with a_door() as door, upgrades(path, monkeypatch, door) as it:
        source = await it.old.source()
        await source.send_all(b"QEVM/ram")
        await read_exactly(await door.next(), 8)
        it.before_it_is_ready = it.old.daemon.drain
        with pytest.raises(UpgradeFailed, match="the daemon is draining"):
            await it.old.daemon.upgrade()
        assert not it.new[0].ended.is_set()
        it.old.daemon.drain()
        assert await read_to_rst(source) == b""


async def test_temporary_routes_go_along(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door() as door, upgrades(path, monkeypatch, door) as it:
        made: dict[str, Any] = {"destination": f"127.0.0.1:{door.port}", "listen": "127.0.0.1:0"}
        begun = await it.old.daemon.add_route({"name": "begun"} | made, once=True, expires_s=None)
        idle = await it.old.daemon.add_route({"name": "idle"} | made, once=True, expires_s=3600)
        source = await connect(begun.host, begun.port)
        await source.send_all(b"QEVM/ram")
        await read_exactly(await door.next(), 8)
        await it.old.daemon.upgrade()
        assert [one["name"] for one in it.new[0].daemon.temporary.describe()] == ["idle"]
        reset(source)
        with trio.fail_after(30):
            await it.old.ended.wait()
        adopted = it.new[0].daemon.temporary.find("temporary idle")
        assert adopted is not None
        assert adopted.address == idle
