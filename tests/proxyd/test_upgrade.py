"""What an upgrade does to a daemon's ports; :mod:`tests.integration.test_upgrade` has it with two processes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from proxyd.daemon import Daemon
from proxyd.metrics import Metrics
from proxyd.ports import Ports
from proxyd.predecessor import Inheritance, Predecessor
from proxyd.relay.listener import Sessions
from proxyd.relay.listening import HandedSockets, InheritedSockets
from proxyd.relay.session import Surroundings
from proxyd.successor import UpgradeFailed
from proxyd.temporary_routes import TemporaryRoutes
from proxyd.upgrade import CannotTakeOver, Upgrade
from proxyd.upgrade_link import Kind, Link, Message, TemporaryRoute
from tests.proxyd.relay.stage import a_journal
from tests.proxyd.relay.wires import connect, reset
from tests.proxyd.test_daemon import RecordingNotifier, a_snapshot, route, running, text


class New:
    """A process that takes another's place, and the other's end of the link."""

    def __init__(self, routes: tuple[TemporaryRoute, ...] = ()) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.old = Link(ours)
        around = Surroundings(Metrics(), a_journal()[0])
        self.sessions = Sessions(8)
        self.handed = HandedSockets({})
        self.ports = Ports(self.sessions, around, InheritedSockets({}), self.handed)
        self.temporary = TemporaryRoutes(self.sessions, around, InheritedSockets({}))
        inheritance = Inheritance(self.handed, InheritedSockets({}), routes)
        self.predecessor = Link(theirs)
        self.upgrade = Upgrade(self.ports, self.temporary, [], (Predecessor(self.predecessor), inheritance))


@asynccontextmanager
async def a_new(tmp_path: Path, routes: tuple[TemporaryRoute, ...] = ()) -> AsyncIterator[tuple[New, trio.Nursery]]:
    new = New(routes)
    snapshot = a_snapshot(tmp_path / "config.toml", text(route("lab", 1)))
    await new.ports.open(snapshot)
    async with trio.open_nursery() as nursery:
        yield new, nursery
        nursery.cancel_scope.cancel()
    new.ports.close()
    new.temporary.close()
    await new.ports.close_metrics()
    new.old.close()
    new.predecessor.close()


async def test_a_daemon_that_does_not_know_its_command_line_stays(tmp_path: Path) -> None:
    async with running(tmp_path / "config.toml", text(route("lab", 1))) as it:
        with pytest.raises(UpgradeFailed, match="it is not known how this process was started"):
            await it.daemon.upgrade()
        assert it.notifier.told[-1] == (
            "STATUS=serving 1 route; the last upgrade failed: it is not known how this process was started"
        )


async def test_a_draining_daemon_stays(tmp_path: Path) -> None:
    snapshot = a_snapshot(tmp_path / "config.toml", text(route("lab", 1)))
    daemon = Daemon(snapshot, RecordingNotifier(), a_journal()[0], command=["/nowhere"])
    with pytest.raises(UpgradeFailed, match="cannot start /nowhere"):
        await daemon_of(daemon)
    daemon.drain()
    with pytest.raises(UpgradeFailed, match="the daemon is draining"):
        await daemon_of(daemon)


async def daemon_of(daemon: Daemon) -> int:
    daemon._status = lambda: "serving"  # type: ignore[method-assign]
    return await daemon.upgrade()


async def test_a_connection_for_a_route_that_is_gone_is_closed(tmp_path: Path) -> None:
    async with a_new(tmp_path) as (new, nursery):
        await new.old.send(Message(Kind.SERVE))
        await new.upgrade.serve(a_snapshot(tmp_path / "config.toml", text(route("lab", 1))).config, nursery)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            await new.old.send(Message(Kind.CONNECTION, key="gone"), [theirs.fileno()])
            theirs.close()
            nursery.start_soon(new.upgrade.take_connections, nursery, lambda: True)
            ours.setblocking(False)
            with trio.fail_after(10):
                await trio.lowlevel.wait_readable(ours)
            assert ours.recv(1) == b""


async def test_a_process_that_drains_takes_no_connections(tmp_path: Path) -> None:
    async with a_new(tmp_path) as (new, nursery):
        await new.old.send(Message(Kind.SERVE))
        await new.upgrade.serve(a_snapshot(tmp_path / "config.toml", text(route("lab", 1))).config, nursery)
        await new.old.send(Message(Kind.ACCEPT))
        await new.upgrade.take_connections(nursery, lambda: False)
        address = new.ports.listening.routes["lab"]
        source = await connect(address.host, address.port)
        await wait_all_tasks_blocked()
        assert len(new.sessions) == 0
        reset(source)


async def test_a_temporary_route_that_the_configuration_refuses(tmp_path: Path) -> None:
    made = TemporaryRoute(
        {"name": "lab", "listen": "127.0.0.1:0", "destination": "127.0.0.1:1"}, "control", False, None
    )
    async with a_new(tmp_path, (made,)) as (new, nursery):
        config = a_snapshot(tmp_path / "config.toml", text(route("lab", 1))).config
        with pytest.raises(CannotTakeOver, match=r"a temporary route: .*lab"):
            await new.upgrade.serve(config, nursery)


async def test_an_old_process_that_stays(tmp_path: Path) -> None:
    async with a_new(tmp_path) as (new, nursery):
        config = a_snapshot(tmp_path / "config.toml", text(route("lab", 1))).config
        new.old.close()
        with pytest.raises(CannotTakeOver, match="the process to be replaced stays: the other process has gone"):
            await new.upgrade.serve(config, nursery)
