"""What a daemon listens on: all of it or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.endpoint import Address
from proxyd.metrics import Metrics
from proxyd.ports import CannotListen, Ports
from proxyd.relay.listener import Sessions
from proxyd.relay.listening import InheritedSockets
from proxyd.relay.session import Surroundings
from proxyd.snapshot import Snapshot
from tests.proxyd.relay.stage import a_journal
from tests.proxyd.relay.wires import Door, a_closed_port, a_door, connect
from tests.proxyd.test_daemon import a_snapshot, route, running, text


def some_ports() -> Ports:
    return Ports(Sessions(8), Surroundings(Metrics(), a_journal()[0]), InheritedSockets({}))


async def refusal(snapshot: Snapshot) -> str:
    with pytest.raises(CannotListen) as caught:
        await some_ports().open(snapshot)
    return str(caught.value)


async def is_closed(port: int) -> bool:
    with pytest.raises(ConnectionRefusedError):
        await connect("127.0.0.1", port)
    return True


def with_control(content: str, path: Path) -> str:
    return f'{content}\n[control]\nsocket = "{path}"\n'


def a_taken(door: Door, tmp_path: Path, which: str, free: int) -> str:
    """A configuration of which one thing is taken."""
    match which:
        case "route":
            return text(route("lab", 1, free), route("other", 1, door.port))
        case "metrics":
            return with_control(text(route("lab", 1, free), metrics_port=door.port), tmp_path / "control.sock")
        case _:
            return with_control(text(route("lab", 1, free)), tmp_path / "gone" / "control.sock")


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("route", "route other: cannot listen on {door}: Address already in use"),
        ("metrics", "metrics.listen: cannot listen on {door}: Address already in use"),
        ("control", "control.socket: cannot listen on {path}/gone/control.sock: No such file or directory"),
    ],
)
async def test_what_is_taken_is_named_and_nothing_stays_open(tmp_path: Path, which: str, said: str) -> None:
    free = a_closed_port()
    async with a_door() as door:
        snapshot = a_snapshot(tmp_path / "config.toml", a_taken(door, tmp_path, which, free))
        assert await refusal(snapshot) == said.format(door=f"127.0.0.1:{door.port}", path=tmp_path)
    assert await is_closed(free)
    assert not (tmp_path / "control.sock").exists()


async def test_it_describes_itself(tmp_path: Path) -> None:
    async with running(tmp_path / "config.toml", text(route("lab", 1))) as it:
        listen = it.daemon.listening.routes["lab"]
        assert isinstance(listen, Address)
        assert it.daemon.ports.describe() == [
            {
                "name": "lab",
                "listen": str(listen),
                "destination": "127.0.0.1:1",
                "temporary": False,
                "once": False,
            }
        ]
        assert len(it.daemon.ports) == 1
