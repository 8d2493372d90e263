"""The exit codes, which scripts rely on, and the exceptions that lead to them."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit status says. ``docs/commands.md`` has the same table."""

    DONE = 0
    BAD_INPUT = 1  # a stream, profile, host description or configuration is not what it should be
    USAGE = 2
    REFUSED = 3  # by the rules
    UNREACHABLE = 4  # a host, a file or a program
    INTERNAL = 70  # a bug of ours (EX_SOFTWARE)
    INTERRUPTED = 130  # 128 + SIGINT
    READER_GONE = 141  # 128 + SIGPIPE
    TERMINATED = 143  # 128 + SIGTERM


class CommandError(Exception):
    """Ends a command with one sentence on standard error. Subclasses say with which exit code."""

    code = ExitCode.INTERNAL


class InputError(CommandError):
    """The input is bad: one clear sentence, with the file's name."""

    code = ExitCode.BAD_INPUT


class UsageError(CommandError):
    """Arguments that argparse cannot judge."""

    code = ExitCode.USAGE


class RefusedError(CommandError):
    """The rules forbid it."""

    code = ExitCode.REFUSED


class UnreachableError(CommandError):
    """A host, a file or a program is not there."""

    code = ExitCode.UNREACHABLE


class Terminated(BaseException):
    """SIGTERM came: everything half done is to be cleaned up on the way out."""
