"""``proxyd reload``, against a daemon that a thread plays."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.cli.main import main
from tests.proxyd.control.played import a_daemon


def test_a_reload_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with a_daemon(tmp_path, b'{"version": 1, "result": {"routes": [{}, {}]}}\n') as played:
        assert main(["reload", "--socket", played.path]) == 0
    assert [one["command"] for one in played.requests] == ["reload"]
    assert capsys.readouterr().out == "reloaded: 2 routes\n"
