"""Show what would change, with verdicts and reasons; the dry run.

With --destination or --profile, STREAM is a saved stream ('-' for standard input) or the source's host description:
then the plan is for a guest that has just been started there. Exit code 0: it will load, as it is or rewritten; 3:
refused.

With two and more host descriptions and neither: a table of what becomes of guests that move from each of them to each
other. Exit code 0: all load; 3: some are refused, or would go wrong.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from proxyd.cli.destination_arguments import add_destination_arguments
from proxyd.cli.exit_codes import ExitCode, InputError, UsageError

if TYPE_CHECKING:
    from proxyd.cli.subject import Subject
    from proxyd.rewrite.knowledge import Knowledge
    from proxyd.rewrite.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``plan --destination HOST.json|--profile FILE STREAM|HOST.json`` and ``plan HOST.json HOST.json ...``."""
    add_destination_arguments(parser)
    parser.add_argument(
        "subjects", metavar="STREAM|HOST.json", nargs="+", help="a saved stream, or the source's host description"
    )
    parser.add_argument("--features", metavar="LIST", help="of the guests' vCPUs (default: all that their host has)")
    parser.add_argument("--without", metavar="LIST", help="features that the guests' vCPUs do without, such as pmu,sve")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Plan and show."""
    from proxyd.rewrite.guest_features import FeaturesError

    try:
        if arguments.destination is None and arguments.profile is None and len(arguments.subjects) > 1:
            return _between_hosts(arguments)
        if len(arguments.subjects) > 1:
            raise UsageError(f"one STREAM or HOST.json to plan for expected, found {len(arguments.subjects)}")
        return _one_guest(arguments)
    except FeaturesError as error:
        raise InputError(str(error)) from error


def _one_guest(arguments: argparse.Namespace) -> ExitCode:
    from proxyd.cli import terminal
    from proxyd.cli.subject import load_destination, load_subject, register_ids
    from proxyd.rewrite.knowledge import Knowledge
    from proxyd.rewrite.plan import Outcome, make_plan

    allow = register_ids(arguments.allow)
    destination = load_destination(arguments.destination, arguments.profile)
    knowledge = Knowledge.builtin()
    subject = _with_features(load_subject(arguments.subjects[0]), knowledge, arguments)
    plan = make_plan(subject.vcpus, destination, knowledge, allow)
    if arguments.json:
        terminal.print_json("plan", _document(subject, plan))
    else:
        _print(subject, plan)
    return ExitCode.REFUSED if plan.outcome is Outcome.REFUSED else ExitCode.DONE


def _between_hosts(arguments: argparse.Namespace) -> ExitCode:
    from proxyd.cli import matrix_view, terminal
    from proxyd.cli.subject import load_subject, register_ids
    from proxyd.rewrite.host_matrix import make_matrix
    from proxyd.rewrite.knowledge import Knowledge

    subjects = [load_subject(path) for path in arguments.subjects]
    streams = [subject.name for subject in subjects if subject.host is None]
    if streams:
        raise UsageError(f"host descriptions expected (or --destination HOST.json), found a stream, {streams[0]}")
    matrix = make_matrix(
        [subject.host for subject in subjects if subject.host is not None],
        Knowledge.builtin(),
        features=_features(arguments.features, "--features"),
        without=_features(arguments.without, "--without") or (),
        allow=register_ids(arguments.allow),
    )
    if arguments.json:
        terminal.print_json("plan", matrix_view.document(subjects, matrix))
    else:
        matrix_view.print_matrix(terminal.console(), subjects, matrix)
    return ExitCode.DONE if matrix.all_load else ExitCode.REFUSED


def _with_features(subject: Subject, knowledge: Knowledge, arguments: argparse.Namespace) -> Subject:
    """A host's guest with the features that are asked for. The plan finds the destination's list for them itself."""
    from dataclasses import replace

    from proxyd.rewrite.guest_features import for_guest, guest_features
    from proxyd.rewrite.plan import VcpuRegisters

    wanted, without = _features(arguments.features, "--features"), _features(arguments.without, "--without")
    if wanted is None and without is None:
        return subject
    if subject.host is None:
        raise UsageError("--features and --without go with host descriptions: a stream's guest has the features it has")
    host = for_guest(subject.host, guest_features(subject.host, wanted, without or ()), knowledge)
    return replace(subject, vcpus=(VcpuRegisters(0, host.registers),), host=host)


def _features(text: str | None, option: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    from proxyd.rewrite.guest_features import FEATURES

    chosen = tuple(filter(None, (part.strip() for part in text.split(","))))
    for one in chosen:
        if one not in FEATURES:
            raise UsageError(
                f"{option}: features of {', '.join(FEATURES)} expected, separated by commas, found {one!r}"
            )
    return chosen


def _print(subject: Subject, plan: Plan) -> None:
    from proxyd.cli import plan_view, terminal

    console = terminal.console()
    console.print(f"{terminal.plain(subject.name)}: {subject.described()}", soft_wrap=True)
    plan_view.print_plan(console, plan)


def _document(subject: Subject, plan: Plan) -> dict[str, Any]:
    from proxyd.rewrite.report import RewriteReport

    report = RewriteReport(machine=subject.machine, plan=plan).to_json_dict()
    return {"file": subject.name, "kind": subject.kind} | {k: v for k, v in report.items() if k != "version"}
