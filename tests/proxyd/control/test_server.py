"""The daemon's end of the control socket, on a real UNIX socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from proxyd.control import server as server_module
from proxyd.control.protocol import ControlError, ErrorKind
from proxyd.control.server import ControlServer
from proxyd.endpoint import UnixPath
from proxyd.relay.listening import InheritedSockets, listen_on
from tests.proxyd.relay.stage import Told, a_journal


async def _echo(arguments: dict[str, Any]) -> dict[str, Any]:
    await trio.lowlevel.checkpoint()
    return {"echo": arguments}


async def _refuse(_arguments: dict[str, Any]) -> dict[str, Any]:
    await trio.lowlevel.checkpoint()
    raise ControlError(ErrorKind.REFUSED, "not now")


async def _fail(_arguments: dict[str, Any]) -> dict[str, Any]:
    await trio.lowlevel.checkpoint()
    raise ZeroDivisionError("a bug")


async def _never(_arguments: dict[str, Any]) -> dict[str, Any]:
    await trio.sleep_forever()
    raise AssertionError("forever is over")


COMMANDS = {"echo": _echo, "refuse": _refuse, "fail": _fail, "never": _never, "status": _echo}


@asynccontextmanager
async def a_server(directory: Path) -> AsyncIterator[tuple[str, Told]]:
    path = str(directory / "control.sock")
    journal, told = a_journal()
    server = ControlServer(await listen_on(UnixPath(path), InheritedSockets({})), COMMANDS, journal)
    assert server.endpoint == UnixPath(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        yield path, told
        server.close()


async def asked(path: str, line: bytes) -> dict[str, Any]:
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(line)
        data = b""
        while chunk := await stream.receive_some():
            data += chunk
    answer: dict[str, Any] = json.loads(data)
    return answer


def a_request(command: str, **arguments: Any) -> bytes:
    return json.dumps({"version": 1, "command": command, "arguments": arguments}).encode() + b"\n"


async def test_a_command_and_its_answer(tmp_path: Path) -> None:
    async with a_server(tmp_path) as (path, told):
        assert await asked(path, a_request("echo", a=1)) == {"version": 1, "result": {"echo": {"a": 1}}}
        await asked(path, a_request("status"))
    ((_, text, fields), (level, _, _)) = told.lines
    assert (text, fields["command"], fields["argument_a"]) == ("control", "echo", "1")
    assert fields["client"].startswith("unix (pid ")
    assert level == "DEBUG", "whoever polls for the status does not fill the log"


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        (a_request("refuse"), "refused", "not now"),
        (a_request("fail"), "internal", "a bug of proxyd's: ZeroDivisionError('a bug')"),
        (
            a_request("ehco"),
            "bad_input",
            "a command among echo, fail, never, refuse, status expected, found 'ehco'",
        ),
        (b"nonsense\n", "bad_input", None),
    ],
)
async def test_what_goes_wrong_is_told(line: bytes, kind: str, says: str | None, tmp_path: Path) -> None:
    async with a_server(tmp_path) as (path, told):
        error = (await asked(path, line))["error"]
        assert error["kind"] == kind
        assert says is None or error["message"] == says
        assert await asked(path, a_request("echo")) == {"version": 1, "result": {"echo": {}}}, "it goes on"
    assert any(level in {"WARNING", "ERROR"} for level, _, _ in told.lines)


async def test_a_client_that_says_too_much_or_leaves_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_REQUEST_BYTES", 100)
    async with a_server(tmp_path) as (path, _):
        for line in (b"x" * 200, b""):
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(line)
                await stream.send_eof()
                assert await _to_the_end(stream) == b""
        leaver = await trio.open_unix_socket(path)
        await leaver.send_all(a_request("echo", text="y" * 40))
        await leaver.aclose()
        await asked(path, a_request("echo"))


async def _to_the_end(stream: trio.SocketStream) -> bytes:
    try:
        return bytes(await stream.receive_some())
    except trio.BrokenResourceError:
        return b""  # closed with bytes unread


async def test_a_client_that_says_nothing_is_dropped_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CLIENT_TIME_S", 0.01)
    async with a_server(tmp_path) as (path, _), await trio.open_unix_socket(path) as stream:
        assert await stream.receive_some() == b""


async def test_clients_that_ask_nothing_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CLIENTS", 2)
    async with a_server(tmp_path) as (path, _):
        silent = [await trio.open_unix_socket(path) for _ in range(2)]
        await silent[0].send_all(b'{"version"')
        await wait_all_tasks_blocked(0.01)
        assert await asked(path, a_request("echo", a=1)) == {"version": 1, "result": {"echo": {"a": 1}}}
        assert await _to_the_end(silent[0]) == b"", "the oldest, which had not asked all of it"
        await silent[1].send_all(a_request("echo", b=2))
        assert json.loads(await _to_the_end(silent[1])) == {"version": 1, "result": {"echo": {"b": 2}}}
        for one in silent:
            await one.aclose()


async def test_there_is_a_limit_to_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CLIENTS", 1)
    async with a_server(tmp_path) as (path, _):
        busy = await trio.open_unix_socket(path)
        await busy.send_all(a_request("never"))
        await wait_all_tasks_blocked(0.01)
        answer = await asked(path, b"")
        assert answer["error"] == {"kind": "refused", "message": "1 clients are being served, as many as may be"}
        await busy.aclose()
