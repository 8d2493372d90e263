"""The exit codes are a contract: scripts compare them."""

from __future__ import annotations

from proxyd.cli.exit_codes import (
    CommandError,
    ExitCode,
    InputError,
    RefusedError,
    UnreachableError,
    UsageError,
)


def test_the_numbers_are_those_of_the_documentation() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0,
        "BAD_INPUT": 1,
        "USAGE": 2,
        "REFUSED": 3,
        "UNREACHABLE": 4,
        "INTERNAL": 70,
        "INTERRUPTED": 130,
        "READER_GONE": 141,
        "TERMINATED": 143,
    }


def test_every_error_has_its_code() -> None:
    errors = (InputError, UsageError, RefusedError, UnreachableError, CommandError)
    assert [error.code for error in errors] == [1, 2, 3, 4, 70]
