"""Run the daemon.

It serves the routes of its configuration until SIGTERM, which drains it; SIGHUP makes it read the configuration again,
SIGUSR2 lets the version that is installed now take its place.
It logs to standard error. docs/operations.md says what the guest experiences in each case.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from proxyd.cli.exit_codes import ExitCode

DEFAULT_CONFIG: Final = Path("/etc/proxyd/config.toml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``serve [--config FILE]``."""
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="the configuration (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> ExitCode:
    """Serve until a drain is over."""
    from proxyd import service

    return ExitCode(service.serve(arguments.config))
