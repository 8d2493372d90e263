"""The old process's side of an upgrade, with a new process that does what the test says."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from proxyd.successor import Successor, UpgradeFailed, command_line
from proxyd.upgrade_link import VARIABLE, TemporaryRoute

PLAYED = """
import json, os, socket, sys, time

link = socket.socket(fileno=int(os.environ["PROXYD_UPGRADE_FD"]))

def hear():
    data, fds, _, _ = socket.recv_fds(link, 1 << 17, 200)
    return json.loads(data)["message"], fds

def say(**message):
    link.send(json.dumps({"version": 1, "message": message}).encode())

def until_open():
    passed = {}
    while True:
        message, fds = hear()
        if message["kind"] == "open":
            return passed
        name = message.get("key") or message["route"]["table"]["name"]
        passed[name] = passed.get(name, 0) + len(fds)
"""


async def start(code: str) -> Successor:
    return await Successor.start([sys.executable, "-c", PLAYED + code])


async def test_everything_is_handed_over_and_then_each_connection() -> None:
    code = """
passed = until_open()
say(kind="ready", keys=[f"{name}={count}" for name, count in sorted(passed.items())])
assert hear()[0]["kind"] == "serve"
say(kind="serving")
message, (fd,) = hear()
assert message["key"] == "lab"
assert hear()[0]["kind"] == "accept"
socket.socket(fileno=fd).sendall(b"mine")
"""
    successor = await start(code)
    route = TemporaryRoute({"name": "temporary"}, "control", once=True, expires_s=None)
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as one:
        keys = await successor.get_ready({"many": [one.fileno()] * 300, "one": [one.fileno()]}, [route], 60)
        assert keys == {"many=300", "one=1", "temporary=0"}
        await successor.serve(60)
        assert await successor.pass_on("lab", theirs)
        theirs.close()
        await successor.accept()
        ours.settimeout(60)
        assert ours.recv(4) == b"mine"
    await successor.kill()


@pytest.mark.parametrize(
    ("code", "limit_s", "reason"),
    [
        ("until_open(); say(kind='refused', reason='no time')", 60, "the new process refused: no time"),
        ("sys.exit(1)", 60, "no answer of the new process: the other process has"),
        ("time.sleep(600)", 0.2, r"the new process was not ready within 0\.2 s \(limits\.upgrade_time_s\)"),
    ],
)
async def test_a_new_process_that_is_not_ready(code: str, limit_s: float, reason: str) -> None:
    successor = await start(code)
    with pytest.raises(UpgradeFailed, match=reason):
        await successor.get_ready({}, [], limit_s)
    await successor.kill()
    assert not Path(f"/proc/{successor.pid}").exists()


@pytest.mark.parametrize(
    ("code", "limit_s", "reason"),
    [
        ("hear()", 60, "no answer of the new process"),
        ("time.sleep(600)", 0.2, r"the new process did not serve within 0\.2 s"),
    ],
)
async def test_a_new_process_that_does_not_serve(code: str, limit_s: float, reason: str) -> None:
    successor = await start(f"until_open(); say(kind='ready'); {code}")
    assert await successor.get_ready({}, [], 60) == frozenset()
    with pytest.raises(UpgradeFailed, match=reason):
        await successor.serve(limit_s)
    await successor.kill()


async def test_a_new_process_that_has_died() -> None:
    successor = await start("until_open(); say(kind='ready')")
    await successor.get_ready({}, [], 60)
    await successor._process.wait()
    with pytest.raises(UpgradeFailed, match="the other process has gone"):
        await successor.serve(60)
    with socket.create_server(("127.0.0.1", 0)) as one:
        assert not await successor.pass_on("lab", one)
    await successor.accept()


async def test_it_knows_nothing_of_what_is_for_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WATCHDOG_USEC", "5")
    code = "until_open(); say(kind='ready', keys=[name for name in os.environ if name[:6] in ('LISTEN', 'WATCHD')])"
    successor = await start(code)
    assert await successor.get_ready({}, [], 60) == {"WATCHDOG_USEC"}
    await successor.kill()
    assert VARIABLE not in os.environ


async def test_a_program_that_is_not_there() -> None:
    with pytest.raises(UpgradeFailed, match="cannot start /nowhere/python: No such file or directory"):
        await Successor.start(["/nowhere/python"])


def test_the_command_line_is_this_processes_own() -> None:
    assert command_line() == [sys.executable, *sys.orig_argv[1:]]
