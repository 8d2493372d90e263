"""Open a route for a migration that is about to begin, list routes, close one.

An orchestrator that chooses destinations at run time asks for a route, gets the address where it listens, and lets the
source migrate there: 'proxyd route add NAME --destination HOST:PORT --destination-host HOST.json --once'.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from proxyd.cli.daemon_request import add_socket_arguments, done, request
from proxyd.cli.exit_codes import ExitCode

# Options of "route add" that are keys of a [[route]] as they are.
_KEYS: Final = ("destination", "listen", "like", "return_path", "postcopy")
_FILES: Final = ("profile", "destination_host")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``route add|list|remove``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="open a route; prints where it listens")
    add.add_argument("name", metavar="NAME", help="what logs call it")
    add.add_argument("--destination", metavar="ADDRESS", help="host:port or unix:/path")
    add.add_argument("--listen", metavar="ADDRESS", help="where sources connect (default: 127.0.0.1:0, any free port)")
    add.add_argument("--like", metavar="ROUTE", help="begin with what the configuration says of this route")
    add.add_argument("--profile", type=Path, metavar="FILE", help="rules written by hand")
    add.add_argument("--destination-host", type=Path, metavar="HOST.json", help="the destination, from 'proxyd probe'")
    add.add_argument("--allow", action="append", metavar="REGISTER", help="a register that may be lost; repeatable")
    add.add_argument("--return-path", metavar="POLICY", help="require or optional")
    add.add_argument("--postcopy", metavar="POLICY", help="proven, sources-10.2 or may-lose-guest")
    add.add_argument("--rehearse", action="store_true", default=None, help="try the registers on this host's KVM")
    add.add_argument("--once", action="store_true", help="close it when its first migration has ended")
    add.add_argument(
        "--expires", type=float, metavar="SECONDS", help="close it if nothing has come by then (--once: 600)"
    )
    remove = actions.add_parser("remove", help="close a temporary route; its migrations go on")
    remove.add_argument("name", metavar="NAME")
    for one in (add, remove, actions.add_parser("list", help="every route")):
        add_socket_arguments(one)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Do what the action says."""
    if arguments.action == "add":
        result = request(arguments, "route-add", _details(arguments))
        return done(arguments, str(result["listen"]))
    if arguments.action == "remove":
        request(arguments, "route-remove", {"name": arguments.name})
        return done(arguments, f"{arguments.name}: closed")
    result = request(arguments, "route-list")
    if not arguments.json:
        for route in result["routes"]:
            kind = " temporary" if route["temporary"] else ""
            sys.stdout.write(f"{route['name']} {route['listen']} {route['destination']}{kind}\n")
    return ExitCode.DONE


def _details(arguments: argparse.Namespace) -> dict[str, Any]:
    """The request. The daemon opens the files, from its own directory: so their paths are made absolute here."""
    given = vars(arguments)
    details: dict[str, Any] = {"name": arguments.name, "once": arguments.once, "expires_s": arguments.expires}
    details |= {key: given[key] for key in _KEYS}
    details |= {key: None if given[key] is None else str(given[key].absolute()) for key in _FILES}
    details |= {"allow": arguments.allow, "rehearse": arguments.rehearse}
    return {key: value for key, value in details.items() if value is not None}
