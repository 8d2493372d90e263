"""Let the running daemon take no more connections, and end when the last one has ended.

The same as SIGTERM: migrations that are not past their commit point have limits.drain_time_s, those that are have all
the time they need. Asked again, it ends the patience with the first kind.
"""

from __future__ import annotations

import argparse

from proxyd.cli.daemon_request import add_socket_arguments, done, request
from proxyd.cli.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``drain``."""
    add_socket_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Ask for a drain; it does not wait for its end."""
    result = request(arguments, "drain")
    return done(arguments, f"draining: {result['connections']} connections are still served")
