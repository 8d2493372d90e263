"""The commands of the control socket, on a daemon that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from proxyd.control.protocol import ControlError, ErrorKind
from proxyd.endpoint import Address
from proxyd.operations import commands
from tests.proxyd.relay.stage import SHUT_0
from tests.proxyd.relay.wires import a_door, connect, read_exactly, read_to_fin, read_to_rst
from tests.proxyd.test_daemon import Running, route, running, text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


async def perform(it: Running, command: str, **arguments: Any) -> dict[str, Any]:
    return await commands(it.daemon)[command](arguments)


async def refusal(it: Running, command: str, **arguments: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(ControlError) as caught:
        await perform(it, command, **arguments)
    return caught.value.kind, str(caught.value)


async def test_the_status_of_a_daemon_with_a_migration(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        source = await it.source()
        await source.send_all(b"QEVM/pages")
        destination = await door.next()
        assert await read_exactly(destination, 10) == b"QEVM/pages"
        await wait_all_tasks_blocked()  # it counts what it has sent
        status = await perform(it, "status")
        assert (status["config"], status["draining"], status["connections"]) == (str(path), False, 1)
        assert [one["name"] for one in status["routes"]] == ["lab"]
        (migration,) = status["migrations"]
        assert migration["route"] == "lab"
        assert (migration["phase"], migration["committed"], migration["machine"]) == ("memory", False, "virt-10.0")
        assert (migration["bytes_to_destination"], migration["channels"]) == (10, 0)
        assert migration["destination"] == f"127.0.0.1:{door.port}"
        assert status["recent"] == []
        await source.send_all(b"[state]")
        await read_exactly(destination, 7)
        await destination.send_all(SHUT_0)
        await destination.send_eof()
        await read_to_fin(source)
        await source.send_eof()
        await it.daemon.sessions.wait_none()
        status = await perform(it, "status")
        assert status["migrations"] == []
        (ended,) = status["recent"]
        assert (ended["id"], ended["outcome"]) == (migration["id"], "completed")


async def test_a_port_probe_is_not_worth_keeping(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        source = await it.source()
        await source.aclose()
        await it.daemon.sessions.wait_none()
        stranger = await it.source()
        await stranger.send_all(b"\x16\x03\x01\x02\x00")
        await read_to_rst(stranger)
        await it.daemon.sessions.wait_none()
        assert [one["outcome"] for one in (await perform(it, "status"))["recent"]] == ["unsupported"]


async def test_a_migration_is_aborted_before_its_commit_point_and_not_after_it(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        before, past = await it.source(), await it.source()
        for source in (before, past):
            await source.send_all(b"QEVM/")
            await read_exactly(await door.next(), 5)
        await past.send_all(b"[state]")
        await read_exactly(door._opened[1], 7)
        found = {one["committed"]: one["id"] for one in (await perform(it, "status"))["migrations"]}
        assert await perform(it, "abort", id=found[False]) == {"id": found[False]}
        assert await read_to_rst(before) == b""
        kind, says = await refusal(it, "abort", id=found[True])
        assert kind is ErrorKind.REFUSED
        assert says == f"{found[True]} is past its commit point: the guest may run on the destination already"
        kind, says = await refusal(it, "abort", id="nobody")
        assert (kind, says) == (
            ErrorKind.BAD_INPUT,
            "the id of a migration that runs expected, found 'nobody'",
        )
    assert it.sample("proxyd_migrations_total", outcome="aborted") == 1


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("abort", {}, "id: a text expected, found None"),
        ("abort", {"id": "x", "force": True}, "force: unknown argument (accepted: id)"),
        ("status", {"all": True}, "all: unknown argument (accepted: none)"),
        ("route-add", {"name": "x", "once": 1}, "once: true or false expected, found 1"),
        ("route-add", {"name": "x", "expires_s": -1}, "expires_s: seconds above 0 expected, found -1"),
        ("route-add", {}, "name: a text expected, found None"),
        ("route-remove", {"name": "x"}, "a temporary route expected (there are: none), found 'x'"),
    ],
)
async def test_wrong_arguments_are_named(command: str, arguments: dict[str, Any], says: str, path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        assert await refusal(it, command, **arguments) == (ErrorKind.BAD_INPUT, says)


async def test_an_upgrade_that_fails_is_a_refusal(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door)), command=["/nowhere/proxyd"]) as it:
        kind, says = await refusal(it, "upgrade")
        assert kind is ErrorKind.REFUSED
        assert says == "nothing changed: cannot start /nowhere/proxyd: No such file or directory"


async def test_an_upgrade_by_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def upgrade() -> int:
        return 4711

    async with a_door() as door, running(path, text(route("lab", door))) as it:
        monkeypatch.setattr(it.daemon, "upgrade", upgrade)
        assert await perform(it, "upgrade") == {"process": 4711, "connections": 0}


async def test_a_reload_by_command(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        path.write_text(text(route("lab", door), route("more", door)))
        assert [one["name"] for one in (await perform(it, "reload"))["routes"]] == ["lab", "more"]
        path.write_text("nonsense")
        kind, says = await refusal(it, "reload")
        assert kind is ErrorKind.BAD_INPUT
        assert says.startswith(f"nothing changed: {path}: not TOML")
        assert (await perform(it, "status"))["last_reload_error"] in says
        path.write_text(text(route("lab", door)))
        await perform(it, "reload")
        assert (await perform(it, "status"))["last_reload_error"] is None


async def test_a_drain_by_command(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        assert await perform(it, "drain") == {"connections": 0}
        with trio.fail_after(10):
            await it.ended.wait()
        kind, says = await refusal(it, "route-add", name="x", destination="127.0.0.1:1")
        assert (kind, says) == (ErrorKind.REFUSED, "the daemon is draining")


async def test_routes_by_command(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        added = await perform(it, "route-add", name="x", destination=f"127.0.0.1:{door.port}", expires_s=3600)
        listed = (await perform(it, "route-list"))["routes"]
        assert [(one["name"], one["temporary"], one["once"]) for one in listed] == [
            ("lab", False, False),
            ("x", True, False),
        ]
        address = Address.parse(added["listen"], literal=True)
        source = await connect(address.host, address.port)
        await source.send_all(b"QEVM/")
        await read_exactly(await door.next(), 5)
        await source.aclose()
        assert await perform(it, "route-remove", name="x") == {"name": "x"}
        assert len((await perform(it, "route-list"))["routes"]) == 1


async def test_the_commands_come_over_the_socket(path: Path, tmp_path: Path) -> None:
    socket = tmp_path / "control.sock"
    content = f'[control]\nsocket = "{socket}"\n'
    async with a_door() as door, running(path, content + text(route("lab", door))):
        stream = await trio.open_unix_socket(str(socket))
        await stream.send_all(b'{"version": 1, "command": "route-list"}\n')
        assert b'"lab"' in await stream.receive_some()
        await stream.aclose()
    assert not socket.exists()
