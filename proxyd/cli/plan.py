"""Show what would change, with verdicts and reasons; the dry run.

STREAM is a saved stream ('-' for standard input) or the source's host description: then the plan is for a guest that
has just been started there. Exit code 0: it will load, as it is or rewritten; 3: refused.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from proxyd.cli.destination_arguments import add_destination_arguments
from proxyd.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from proxyd.cli.subject import Subject
    from proxyd.rewrite.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``plan --destination HOST.json|--profile FILE STREAM|HOST.json [--json] [--allow REGISTER]``."""
    add_destination_arguments(parser)
    parser.add_argument("subject", metavar="STREAM", help="a saved stream, or the source's host description")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Plan and show."""
    from proxyd.cli import terminal
    from proxyd.cli.subject import load_destination, load_subject, register_ids
    from proxyd.rewrite.knowledge import Knowledge
    from proxyd.rewrite.plan import Outcome, make_plan

    allow = register_ids(arguments.allow)
    destination = load_destination(arguments.destination, arguments.profile)
    subject = load_subject(arguments.subject)
    plan = make_plan(subject.vcpus, destination, Knowledge.builtin(), allow)
    if arguments.json:
        terminal.print_json("plan", _document(subject, plan))
    else:
        _print(subject, plan)
    return ExitCode.REFUSED if plan.outcome is Outcome.REFUSED else ExitCode.DONE


def _print(subject: Subject, plan: Plan) -> None:
    from proxyd.cli import plan_view, terminal

    console = terminal.console()
    console.print(f"{terminal.plain(subject.name)}: {subject.described()}", soft_wrap=True)
    plan_view.print_plan(console, plan)


def _document(subject: Subject, plan: Plan) -> dict[str, Any]:
    from proxyd.rewrite.report import RewriteReport

    report = RewriteReport(machine=subject.machine, plan=plan).to_json_dict()
    return {"file": subject.name, "kind": subject.kind} | {k: v for k, v in report.items() if k != "version"}
