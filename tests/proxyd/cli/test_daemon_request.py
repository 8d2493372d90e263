"""Which socket the verbs ask, and what the daemon's errors become."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxyd.cli import daemon_request
from proxyd.cli.main import main
from tests.proxyd.control.played import a_daemon

ROUTE = '[[route]]\nname = "a"\nlisten = "127.0.0.1:0"\ndestination = "127.0.0.1:1"\n'
DRAINED = b'{"version": 1, "result": {"connections": 2}}\n'


def test_the_socket_that_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with a_daemon(tmp_path, DRAINED) as played:
        assert main(["drain", "--socket", played.path]) == 0
    assert capsys.readouterr().out == "draining: 2 connections are still served\n"


def test_the_socket_of_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.toml"
    with a_daemon(tmp_path, DRAINED) as played:
        config.write_text(f'[control]\nsocket = "{played.path}"\n{ROUTE}')
        assert main(["drain", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": 1, "command": "drain", "connections": 2}
    config.write_text(ROUTE)
    assert main(["drain", "--config", str(config)]) == 1
    assert "control: expected a socket there, found none: this daemon takes no commands" in capsys.readouterr().err
    config.write_text("nonsense")
    assert main(["drain", "--config", str(config)]) == 1
    assert "not TOML" in capsys.readouterr().err


def test_the_usual_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(daemon_request, "DEFAULT_CONFIG", tmp_path / "none.toml")
    assert main(["drain"]) == 4
    assert "/run/proxyd-control/control.sock: expected a running proxyd" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "status"), [("bad_input", 1), ("refused", 3), ("internal", 70)])
def test_what_the_daemon_refuses(kind: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = json.dumps({"version": 1, "error": {"kind": kind, "message": "because"}}).encode() + b"\n"
    with a_daemon(tmp_path, line) as played:
        assert main(["drain", "--socket", played.path]) == status
    assert capsys.readouterr().err == "proxyd drain: because\n"
