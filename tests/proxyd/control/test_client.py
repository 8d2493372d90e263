"""The command line's end of the control socket, against a daemon that a thread plays."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxyd.control.client import DaemonUnreachable, ask
from proxyd.control.protocol import ControlError, ErrorKind
from tests.proxyd.control.played import a_daemon


def test_a_request_and_its_answer(tmp_path: Path) -> None:
    with a_daemon(tmp_path, b'{"version": 1, "result": {"a": 1}}\n') as played:
        assert ask(played.path, "abort", {"id": "x"}) == {"a": 1}
    assert played.requests == [{"version": 1, "command": "abort", "arguments": {"id": "x"}}]
    with a_daemon(tmp_path, b'{"version": 1}\n') as played:
        assert ask(played.path, "drain") == {}


def test_a_refusal(tmp_path: Path) -> None:
    line = b'{"version": 1, "error": {"kind": "refused", "message": "no"}}\n'
    with a_daemon(tmp_path, line) as played, pytest.raises(ControlError, match=r"^no$") as caught:
        ask(played.path, "drain")
    assert caught.value.kind is ErrorKind.REFUSED


@pytest.mark.parametrize("answer", [b"", b"nonsense\n"])
def test_somebody_else_answers(answer: bytes, tmp_path: Path) -> None:
    with (
        a_daemon(tmp_path, answer) as played,
        pytest.raises(DaemonUnreachable, match="expected proxyd's answer, found"),
    ):
        ask(played.path, "status")


def test_nobody_answers(tmp_path: Path) -> None:
    path = str(tmp_path / "no.sock")
    says = f"{path}: expected a running proxyd ([control] socket), found: No such file or directory"
    with pytest.raises(DaemonUnreachable, match=f"^{re.escape(says)}$"):
        ask(path, "status")
