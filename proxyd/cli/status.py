"""Show what the running daemon does: its routes, its migrations, and what became of the last ones."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from proxyd.cli.daemon_request import add_socket_arguments, request
from proxyd.cli.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``status``."""
    add_socket_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Ask and show."""
    status = request(arguments, "status")
    if not arguments.json:
        sys.stdout.write("".join(f"{line}\n" for line in lines(status)))
    return ExitCode.DONE


def lines(status: dict[str, Any]) -> list[str]:
    """The status for people, line by line. What a source or a file has named is made harmless."""
    from proxyd.cli.terminal import plain

    shown = [
        f"proxyd {status['proxyd']}, up for {status['uptime_s']:.0f} s, {status['config']}"
        + (", draining" if status["draining"] else "")
    ]
    if status["last_reload_error"]:
        shown.append(f"the last reload was refused: {status['last_reload_error']}")
    for route in status["routes"]:
        kind = " (temporary, for one migration)" if route["once"] else " (temporary)" if route["temporary"] else ""
        shown.append(f"route {route['name']}: {route['listen']} -> {route['destination']}{kind}")
    shown.append(f"{len(status['migrations'])} migrations, {status['connections']} connections")
    for one in status["migrations"]:
        where = "past its commit point" if one["committed"] else one["phase"]
        channels = f", {one['channels']} more channels" if one["channels"] else ""
        shown.append(
            f"  {one['id']} {one['route']}: {one['source']} -> {one['destination']}, {one['machine']}, {where}, "
            f"{one['bytes_to_destination'] / 1e6:.1f} MB in {one['seconds']:.0f} s{channels}"
        )
    if status["recent"]:
        shown.append("the last that ended:")
    shown += [f"  {one['ended']} {one['id']} {one['outcome']}: {one['reason']}" for one in status["recent"]]
    return [plain(line) for line in shown]
