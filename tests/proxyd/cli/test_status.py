"""``proxyd status``: the lines for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxyd.cli.main import main
from proxyd.cli.status import lines
from tests.proxyd.control.played import a_daemon

MIGRATION: dict[str, Any] = {
    "id": "5f0c6a2b91d4", "route": "lab", "source": "192.0.2.1:9", "destination": "192.0.2.2:4444", "phase": "memory",
    "machine": "virt-10.0\x1b[2J", "committed": False, "channels": 0, "held_bytes": 0,
    "bytes_to_destination": 2_500_000, "bytes_to_source": 8, "seconds": 3.2,
}  # fmt: skip
STATUS: dict[str, Any] = {
    "proxyd": "0.1.0", "uptime_s": 12.4, "config": "/etc/proxyd/config.toml", "last_reload_error": None,
    "draining": False, "connections": 0, "recent": [], "migrations": [],
    "routes": [
        {
            "name": "lab", "listen": "192.0.2.10:4444", "destination": "192.0.2.2:4444",
            "temporary": False, "once": False,
        },
    ],
}  # fmt: skip


def test_an_idle_daemon() -> None:
    assert lines(STATUS) == [
        "proxyd 0.1.0, up for 12 s, /etc/proxyd/config.toml",
        "route lab: 192.0.2.10:4444 -> 192.0.2.2:4444",
        "0 migrations, 0 connections",
    ]


def test_a_busy_one() -> None:
    route = STATUS["routes"][0]
    status = STATUS | {
        "draining": True,
        "last_reload_error": "not TOML",
        "connections": 4,
        "routes": [route | {"temporary": True}, route | {"temporary": True, "once": True}],
        "migrations": [MIGRATION, MIGRATION | {"committed": True, "channels": 2}],
        "recent": [MIGRATION | {"ended": "2026-11-23T22:00:00.000+00:00", "outcome": "completed", "reason": "it runs"}],
    }
    assert lines(status) == [
        "proxyd 0.1.0, up for 12 s, /etc/proxyd/config.toml, draining",
        "the last reload was refused: not TOML",
        "route lab: 192.0.2.10:4444 -> 192.0.2.2:4444 (temporary)",
        "route lab: 192.0.2.10:4444 -> 192.0.2.2:4444 (temporary, for one migration)",
        "2 migrations, 4 connections",
        "  5f0c6a2b91d4 lab: 192.0.2.1:9 -> 192.0.2.2:4444, virt-10.0\\x1b[2J, memory, 2.5 MB in 3 s",
        (
            "  5f0c6a2b91d4 lab: 192.0.2.1:9 -> 192.0.2.2:4444, virt-10.0\\x1b[2J, past its commit point, "
            "2.5 MB in 3 s, 2 more channels"
        ),
        "the last that ended:",
        "  2026-11-23T22:00:00.000+00:00 5f0c6a2b91d4 completed: it runs",
    ]


def test_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = json.dumps({"version": 1, "result": STATUS}).encode() + b"\n"
    with a_daemon(tmp_path, line, line) as played:
        assert main(["status", "--socket", played.path]) == 0
        assert capsys.readouterr().out.startswith("proxyd 0.1.0, up for 12 s")
        assert main(["status", "--socket", played.path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": 1, "command": "status", **STATUS}
