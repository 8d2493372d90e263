"""``proxyd route``, against a daemon that a thread plays."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.cli.main import main
from tests.proxyd.control.played import a_daemon

ADDED = b'{"version": 1, "result": {"name": "x", "listen": "127.0.0.1:43117"}}\n'


def test_a_route_is_added_and_its_address_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with a_daemon(tmp_path, ADDED, ADDED) as played:
        assert main(["route", "add", "x", "--destination", "192.0.2.2:4444", "--socket", played.path]) == 0
        options = ["--like", "lab", "--profile", "p.toml", "--destination-host", "/srv/h.json", "--allow", "TCR2_EL1"]
        more = ["--once", "--expires", "5", "--rehearse", "--postcopy", "proven", "--return-path", "require"]
        assert main(["route", "add", "x", *options, *more, "--json", "--socket", played.path]) == 0
    assert capsys.readouterr().out.startswith("127.0.0.1:43117\n{")
    assert [one["arguments"] for one in played.requests] == [
        {"name": "x", "once": False, "destination": "192.0.2.2:4444"},
        {
            "name": "x", "once": True, "expires_s": 5.0, "like": "lab", "return_path": "require", "postcopy": "proven",
            "profile": str(tmp_path / "p.toml"), "destination_host": "/srv/h.json", "allow": ["TCR2_EL1"],
            "rehearse": True,
        },
    ]  # fmt: skip


def test_routes_are_listed_and_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = (
        b'{"version": 1, "result": {"routes": ['
        b'{"name": "lab", "listen": "192.0.2.1:1", "destination": "original", "temporary": false},'
        b'{"name": "x", "listen": "127.0.0.1:2", "destination": "192.0.2.2:3", "temporary": true}]}}\n'
    )
    with a_daemon(tmp_path, listed, listed, b'{"version": 1, "result": {"name": "x"}}\n') as played:
        assert main(["route", "list", "--socket", played.path]) == 0
        assert capsys.readouterr().out == "lab 192.0.2.1:1 original\nx 127.0.0.1:2 192.0.2.2:3 temporary\n"
        assert main(["route", "list", "--json", "--socket", played.path]) == 0
        assert '"original"' in capsys.readouterr().out
        assert main(["route", "remove", "x", "--socket", played.path]) == 0
    assert capsys.readouterr().out == "x: closed\n"


def test_an_action_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["route"])
    assert caught.value.code == 2
    assert "ACTION" in capsys.readouterr().err
