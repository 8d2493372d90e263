"""The command line: which verbs there are, and what becomes of everything that can go wrong in one.

Each verb is one file with ``add_arguments`` and ``run``, and one line in :data:`VERBS`. They import what they need when
they run, so that start-up stays quick.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Final, Protocol

from proxyd.cli import (
    abort,
    check_config,
    demo,
    diff,
    drain,
    explain,
    inspect,
    plan,
    probe,
    rehearsal_service,
    rehearse,
    reload,
    replay,
    rewrite,
    route,
    serve,
    status,
    upgrade,
)
from proxyd.cli.exit_codes import CommandError, ExitCode, Terminated

EPILOG: Final = """\
exit codes:
  0 done   1 the input is bad   2 usage   3 refused by the rules   4 a host or a file could not be reached   70 a bug
"""


class Verb(Protocol):
    """What a verb's module has. The docstring is its help, the first line of it stands beside the verb's name."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""

    def run(self, arguments: argparse.Namespace) -> ExitCode:
        """Do it."""


VERBS: Final[dict[str, Verb]] = {
    "serve": serve,
    "check-config": check_config,
    "status": status,
    "route": route,
    "reload": reload,
    "upgrade": upgrade,
    "drain": drain,
    "abort": abort,
    "inspect": inspect,
    "diff": diff,
    "probe": probe,
    "plan": plan,
    "rehearse": rehearse,
    "rehearsal-service": rehearsal_service,
    "rewrite": rewrite,
    "replay": replay,
    "explain": explain,
    "demo": demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; what is wrong with the arguments leaves by :class:`SystemExit` 2."""
    try:
        arguments = build_parser().parse_args(argv)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    verb: Verb = VERBS[arguments.verb]
    try:
        with _sigterm_unwinds():
            code = verb.run(arguments)
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough. Nothing more can be written, not even at exit.
        _discard_output()
        code = ExitCode.READER_GONE
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except Terminated:
        code = ExitCode.TERMINATED
    except CommandError as error:
        code = _fail(arguments, str(error), error.code)
    except OSError as error:
        code = _fail(arguments, _os_error(error), ExitCode.UNREACHABLE)
    except Exception as error:  # noqa: BLE001 - the last resort, and the only one
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        text = f"internal error, please report: {found}" + ("" if arguments.debug else " (--debug shows where)")
        code = _fail(arguments, text, ExitCode.INTERNAL)
    return code


def build_parser() -> argparse.ArgumentParser:
    """Every verb with its arguments."""
    parser = argparse.ArgumentParser(
        prog="proxyd",
        description="Rewrites QEMU migration streams between arm64 hosts with different kernels.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"proxyd {version('proxyd')}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        description = verb.__doc__ or ""
        summary = description.partition("\n")[0].rstrip(".")
        one = verbs.add_parser(
            name,
            help=summary[:1].lower() + summary[1:],
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(one)
        one.add_argument("--debug", action="store_true", help="show the traceback of an internal error")
    return parser


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated`. Python lets only the main thread ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated


def _fail(arguments: argparse.Namespace, message: str, code: ExitCode) -> ExitCode:
    from proxyd.cli.terminal import plain

    if arguments.debug:
        import traceback

        traceback.print_exc()
    # A message may quote a stream, whose names are the source's choice: no escape sequence may reach the terminal.
    sys.stderr.write(f"proxyd {arguments.verb}: {plain(message)}\n")
    return code


def _os_error(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror[:1].lower()}{error.strerror[1:]}"


def _discard_output() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
