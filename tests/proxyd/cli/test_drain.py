"""``proxyd drain``, against a daemon that a thread plays."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.cli.main import main
from tests.proxyd.control.played import a_daemon


def test_a_drain_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with a_daemon(tmp_path, b'{"version": 1, "result": {"connections": 0}}\n') as played:
        assert main(["drain", "--socket", played.path]) == 0
    assert [one["command"] for one in played.requests] == ["drain"]
    assert capsys.readouterr().out == "draining: 0 connections are still served\n"
