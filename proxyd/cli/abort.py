"""End one migration that is not past its commit point; its source resumes the guest.

Past the commit point the guest may run on the destination already: it is refused then (exit code 3).
"""

from __future__ import annotations

import argparse

from proxyd.cli.daemon_request import add_socket_arguments, done, request
from proxyd.cli.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``abort ID``."""
    parser.add_argument("id", metavar="ID", help="the migration's id, from 'proxyd status' or the log")
    add_socket_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Ask for the end of a migration."""
    request(arguments, "abort", {"id": arguments.id})
    return done(arguments, f"{arguments.id}: ended; the source resumes its guest")
