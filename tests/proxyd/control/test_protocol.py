"""Requests and answers, line by line."""

from __future__ import annotations

import json

import pytest

from proxyd.control.protocol import ControlError, ErrorKind, Request, read_request, write_answer


def test_a_request() -> None:
    line = b'{"version": 1, "command": "abort", "arguments": {"id": "x"}}\n'
    assert read_request(line) == Request(1, "abort", {"id": "x"})
    assert read_request(b'{"version": 1, "command": "status"}').arguments == {}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"status\n", "a request expected, found: "),
        (b'{"version": 1}', "a request expected, found: Object missing required field `command`"),
        (b'{"version": 1, "command": "status", "more": 1}', "a request expected, found: Object contains unknown field"),
        (b'{"version": 2, "command": "status"}', "version 1 of the control protocol expected, found 2"),
    ],
)
def test_what_is_none(line: bytes, says: str) -> None:
    with pytest.raises(ControlError) as caught:
        read_request(line)
    assert str(caught.value).startswith(says)
    assert caught.value.kind is ErrorKind.BAD_INPUT


def test_answers() -> None:
    assert json.loads(write_answer({"a": 1})) == {"version": 1, "result": {"a": 1}}
    assert write_answer({}).endswith(b"\n")
    assert json.loads(write_answer(ControlError(ErrorKind.REFUSED, "no"))) == {
        "version": 1,
        "error": {"kind": "refused", "message": "no"},
    }
