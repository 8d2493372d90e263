"""Read everything that the daemon would read, and say what is wrong where.

That is the configuration, the profiles and host descriptions it names, and the knowledge base. No port is opened.
What it accepts, 'proxyd serve' accepts, except for ports that are taken by then.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from proxyd.cli.exit_codes import ExitCode, InputError

if TYPE_CHECKING:
    from proxyd.routes import Route


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``check-config FILE``."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the configuration")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Check one configuration file."""
    from proxyd import config_file
    from proxyd.config import ConfigError
    from proxyd.snapshot import Snapshot, remarks

    try:
        snapshot = Snapshot.build(config_file.load(arguments.file))
    except ConfigError as error:
        raise InputError(str(error)) from error
    for route in snapshot.routes:
        sys.stdout.write(f"{_described(route)}\n")
    for remark in remarks(snapshot):
        sys.stdout.write(f"remark: {remark}\n")
    sys.stdout.write(f"{arguments.file}: good\n")
    return ExitCode.DONE


def _described(route: Route) -> str:
    destination = route.policy.destination
    towards = "nothing is rewritten"
    if destination is not None and destination.host is not None:
        towards = f"rewritten for {destination.host.name}"
        if destination.profile is not None:
            towards += ", with a profile"
    elif destination is not None:
        towards = "rewritten by a profile"
    if route.rehearsal is not None:
        towards += f", rehearsed by {route.rehearsal.socket}"
    return (
        f"route {route.name}: {route.listen} -> {route.destination}, {towards}, return path {route.policy.return_path}"
    )
