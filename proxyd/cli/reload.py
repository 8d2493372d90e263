"""Let the running daemon read its configuration again, and say whether it is in force.

The same as SIGHUP: the whole file is in force afterwards, or nothing has changed. Migrations that run keep the settings
with which they began; temporary routes stay.
"""

from __future__ import annotations

import argparse

from proxyd.cli.daemon_request import add_socket_arguments, done, request
from proxyd.cli.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``reload``."""
    add_socket_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Ask for a reload, and wait for it."""
    result = request(arguments, "reload")
    return done(arguments, f"reloaded: {len(result['routes'])} routes")
