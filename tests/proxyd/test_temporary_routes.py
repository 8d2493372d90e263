"""Routes that come and go, on a daemon that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from proxyd import temporary_routes
from proxyd.control.protocol import ControlError, ErrorKind
from proxyd.endpoint import Address
from tests.proxyd.relay.stage import SHUT_0
from tests.proxyd.relay.wires import a_closed_port, a_door, connect, read_exactly, read_to_fin, reset
from tests.proxyd.test_daemon import Running, route, running, text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


async def add(it: Running, *, once: bool = False, expires_s: float | None = None, **table: Any) -> Address:
    listen = await it.daemon.add_route(table, once=once, expires_s=expires_s)
    assert isinstance(listen, Address)
    return listen


def names(it: Running) -> list[str]:
    return [one["name"] for one in it.daemon.temporary.describe()]


async def gone(it: Running) -> None:
    with trio.fail_after(10):
        while names(it):
            await trio.sleep(0.005)


async def test_a_route_for_one_migration_closes_when_that_has_ended(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        listen = await add(it, once=True, name="x", destination=f"127.0.0.1:{door.port}")
        probe = await connect(listen.host, listen.port)
        await probe.aclose()
        source = await connect(listen.host, listen.port)
        await source.send_all(b"QEVM/[state]")
        destination = await door.next()
        await read_exactly(destination, 12)
        assert names(it) == ["x"]
        await destination.send_all(SHUT_0)
        await destination.send_eof()
        await read_to_fin(source)
        await source.aclose()
        await gone(it)
        with pytest.raises(ConnectionRefusedError):
            await connect(listen.host, listen.port)
    assert it.sample("proxyd_migrations_total", route="control", outcome="completed") == 1
    assert it.sample("proxyd_migrations_total", route="x") == 0


async def test_a_route_that_nobody_uses_expires(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        await add(it, once=True, expires_s=0.01, name="x", destination="127.0.0.1:1")
        await add(it, expires_s=0.01, name="y", destination="127.0.0.1:1")
        await gone(it)
    assert "the temporary route is closed" in it.told.texts()


async def test_a_route_does_not_expire_under_a_migration(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        listen = await add(it, once=True, expires_s=0.05, name="x", destination=f"127.0.0.1:{door.port}")
        source = await connect(listen.host, listen.port)
        await source.send_all(b"QEVM/")
        await read_exactly(await door.next(), 5)
        await trio.sleep(0.2)
        assert names(it) == ["x"]
        reset(source)
        await gone(it)


async def test_a_route_like_another(path: Path) -> None:
    async with (
        a_door() as door,
        running(path, text(route("lab", door, more='source_networks = ["192.0.2.0/24"]'))) as it,
    ):
        await add(it, name="x", like="lab")
        ((_, one),) = it.daemon.temporary._routes.items()
        assert one.port.route.networks != ()
        assert one.port.route.destination == Address("127.0.0.1", door.port)
        assert (one.port.route.name, one.port.route.metrics_label) == ("x", "lab")


async def test_temporary_routes_outlive_a_reload_and_end_with_the_daemon(path: Path) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        await add(it, name="x", destination="127.0.0.1:1")
        await it.daemon.reload()
        assert names(it) == ["x"]
        it.daemon.temporary.remove("x")
        await add(it, name="x", destination="127.0.0.1:1")
        it.daemon.drain()
        await it.ended.wait()
        assert names(it) == []


@pytest.mark.parametrize(
    ("table", "kind", "says"),
    [
        ({"name": "lab"}, ErrorKind.BAD_INPUT, "route: object missing required field destination"),
        (
            {"name": "lab", "destination": "127.0.0.1:1"},
            ErrorKind.BAD_INPUT,
            "route[1].name: 'lab' is already the name of route[0]; names are unique",
        ),
        (
            {"name": "x", "destination": "127.0.0.1"},
            ErrorKind.BAD_INPUT,
            "route.destination: expected host:port or [ipv6]:port, found '127.0.0.1'",
        ),
        (
            {"name": "x", "destination": "127.0.0.1:1", "profil": "x"},
            ErrorKind.BAD_INPUT,
            "route.profil: unknown key; did you mean profile? (accepted here: ",
        ),
        ({"name": "x", "like": "b"}, ErrorKind.BAD_INPUT, "like: a route among lab expected, found 'b'"),
        (
            {"name": "x", "destination": "127.0.0.1:1", "listen": "unix:/nowhere/x"},
            ErrorKind.REFUSED,
            "cannot listen on unix:/nowhere/x: No such file or directory",
        ),
    ],
)
async def test_what_would_be_wrong_in_a_file_is_wrong_here(
    table: dict[str, Any], kind: ErrorKind, says: str, path: Path
) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        with pytest.raises(ControlError) as caught:
            await add(it, **table)
        assert caught.value.kind is kind
        assert str(caught.value).startswith(says)
        assert names(it) == []


async def test_there_is_a_limit_and_a_name_is_used_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        await add(it, name="x", destination="127.0.0.1:1")
        with pytest.raises(ControlError, match="there is a temporary route 'x' already"):
            await add(it, name="x", destination="127.0.0.1:1")
        monkeypatch.setattr(temporary_routes, "MAX_ROUTES", 1)
        with pytest.raises(ControlError, match="at most 1 temporary routes expected, found another"):
            await add(it, name="y", destination="127.0.0.1:1")


async def test_two_at_once_get_one_name_once(path: Path) -> None:
    answers: list[str] = []

    async def try_to_add(it: Running) -> None:
        try:
            await add(it, name="x", destination="127.0.0.1:1")
            answers.append("added")
        except ControlError as error:
            answers.append(str(error))

    async with a_door() as door, running(path, text(route("lab", door))) as it:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(try_to_add, it)
            nursery.start_soon(try_to_add, it)
        assert answers == ["added", "there is a temporary route 'x' already"]


async def test_a_drain_overtakes_an_addition(path: Path) -> None:
    free = a_closed_port()
    async with a_door() as door, running(path, text(route("lab", door))) as it:
        it.daemon.temporary.close()
        with pytest.raises(ControlError, match="the daemon is draining") as caught:
            await add(it, name="x", destination="127.0.0.1:1", listen=f"127.0.0.1:{free}")
        assert caught.value.kind is ErrorKind.REFUSED
        with pytest.raises(ConnectionRefusedError):
            await connect("127.0.0.1", free)
