"""``proxyd upgrade``, against a daemon that a thread plays; :mod:`tests.integration.test_upgrade` has a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.cli.main import main
from tests.proxyd.control.played import a_daemon


def test_an_upgrade_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with a_daemon(tmp_path, b'{"version": 1, "result": {"process": 7, "connections": 2}}\n') as played:
        assert main(["upgrade", "--socket", played.path]) == 0
    assert [one["command"] for one in played.requests] == ["upgrade"]
    assert capsys.readouterr().out == "upgraded: process 7 serves; 2 connections are finished by the old one\n"


def test_an_upgrade_that_failed_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = b'{"version": 1, "error": {"kind": "refused", "message": "nothing changed: no time"}}\n'
    with a_daemon(tmp_path, answer) as played:
        assert main(["upgrade", "--socket", played.path]) == 3
    assert "nothing changed: no time" in capsys.readouterr().err
