"""Let the version of proxyd that is installed now take the running daemon's place, without a moment in between.

The same as SIGUSR2: a new process of the same command line gets every listening socket and serves from then on; the old
one finishes the migrations that it carries, without a limit, and ends. If the new one is not ready in time, nothing has
changed.
"""

from __future__ import annotations

import argparse

from proxyd.cli.daemon_request import add_socket_arguments, done, request
from proxyd.cli.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``upgrade``."""
    add_socket_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Ask for an upgrade, and wait until the new process serves."""
    result = request(arguments, "upgrade")
    left = f"{result['connections']} connections are finished by the old one"
    return done(arguments, f"upgraded: process {result['process']} serves; {left}")
