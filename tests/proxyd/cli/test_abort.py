"""``proxyd abort``, against a daemon that a thread plays."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.cli.main import main
from tests.proxyd.control.played import a_daemon


def test_an_abort_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with a_daemon(tmp_path, b'{"version": 1, "result": {"id": "5f0c6a2b91d4"}}\n') as played:
        assert main(["abort", "5f0c6a2b91d4", "--socket", played.path]) == 0
    assert played.requests[0]["arguments"] == {"id": "5f0c6a2b91d4"}
    assert capsys.readouterr().out == "5f0c6a2b91d4: ended; the source resumes its guest\n"
