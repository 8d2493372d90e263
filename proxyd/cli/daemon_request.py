"""What the verbs that talk to a running daemon share: which socket, and what its errors become."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from proxyd.cli.exit_codes import CommandError, ExitCode, InputError, RefusedError, UnreachableError
from proxyd.cli.serve import DEFAULT_CONFIG


def add_socket_arguments(parser: argparse.ArgumentParser) -> None:
    """``[--socket PATH | --config FILE] [--json]``."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--socket", metavar="PATH", help="the daemon's control socket")
    which.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"the daemon's configuration, whose [control] says where (default: {DEFAULT_CONFIG})",
    )
    parser.add_argument("--json", action="store_true", help="the daemon's answer as JSON")


def socket_path(arguments: argparse.Namespace) -> str:
    """Where the daemon listens for commands: as told, as configured, or where it usually does."""
    from proxyd import config_file
    from proxyd.config import ConfigError
    from proxyd.control.protocol import DEFAULT_SOCKET

    if arguments.socket is not None:
        return str(arguments.socket)
    path = arguments.config or DEFAULT_CONFIG
    if arguments.config is None and not path.exists():
        return DEFAULT_SOCKET
    try:
        configured = config_file.load(path).control.socket
    except ConfigError as error:
        raise InputError(str(error)) from error
    if configured is None:
        raise InputError(f"{path}: control: expected a socket there, found none: this daemon takes no commands")
    return configured


def request(arguments: argparse.Namespace, command: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the daemon, and write its answer if it is wanted as JSON. Raises :class:`CommandError`."""
    from proxyd.control.client import DaemonUnreachable, ask
    from proxyd.control.protocol import VERSION, ControlError, ErrorKind

    try:
        result = ask(socket_path(arguments), command, details)
    except DaemonUnreachable as error:
        raise UnreachableError(str(error)) from error
    except ControlError as error:
        kinds: dict[ErrorKind, type[CommandError]] = {
            ErrorKind.BAD_INPUT: InputError,
            ErrorKind.REFUSED: RefusedError,
            ErrorKind.INTERNAL: CommandError,
        }
        raise kinds[error.kind](str(error)) from error
    if arguments.json:
        sys.stdout.write(json.dumps({"version": VERSION, "command": arguments.verb, **result}, indent=2) + "\n")
    return result


def done(arguments: argparse.Namespace, text: str) -> ExitCode:
    """Say what was done, to people."""
    if not arguments.json:
        sys.stdout.write(f"{text}\n")
    return ExitCode.DONE
