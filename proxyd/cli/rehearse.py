"""Try a stream's registers on this host's KVM, as this host's QEMU would load them.

To be run on the destination: it must be an arm64 host, and /dev/kvm must be open to this user. A scratch VM is made as
QEMU makes one, the registers are written in QEMU's order and read back; no guest is started, and other users of KVM do
not notice. What is tried is what a migration through proxyd would bring: the registers as rewritten for --destination,
which by default is this very host. --as-is tries the stream as it is.

Exit code 0: it loads, and every register has the guest's value, but for those that --allow names; 3: refused, by the
plan or by KVM.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from proxyd.cli.destination_arguments import add_destination_arguments
from proxyd.cli.exit_codes import ExitCode, UnreachableError, UsageError

if TYPE_CHECKING:
    from proxyd.cli.subject import Subject
    from proxyd.kvm.counter import Clock
    from proxyd.kvm.system import System
    from proxyd.rewrite.plan import Destination, Plan
    from proxyd.rewrite.rehearsal import Rehearsal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``rehearse STREAM [--destination HOST.json] [--profile FILE] [--allow REGISTER] [--as-is] [--json]``."""
    add_destination_arguments(parser)
    parser.add_argument("subject", metavar="STREAM", help="a saved stream, or the source's host description")
    parser.add_argument("--as-is", action="store_true", help="try the stream without rewriting it")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Plan, rehearse and show."""
    from proxyd.cli import terminal
    from proxyd.cli.probe import live_host
    from proxyd.cli.subject import load_subject, register_ids
    from proxyd.kvm import host_facts
    from proxyd.kvm.rehearsal import rehearse
    from proxyd.kvm.system import KvmError
    from proxyd.rewrite.knowledge import Knowledge
    from proxyd.rewrite.plan import Outcome, make_plan

    if arguments.as_is and (arguments.destination or arguments.profile or arguments.allow):
        raise UsageError("--as-is tries the stream without a plan: it goes with no --destination, --profile or --allow")
    allow = register_ids(arguments.allow)
    subject = load_subject(arguments.subject)
    plan: Plan | None = None
    rehearsal: Rehearsal | None = None
    try:
        system, clock = live_host()
        if not arguments.as_is:
            destination = _destination(arguments, subject, system, clock)
            plan = make_plan(subject.vcpus, destination, Knowledge.builtin(), allow)
        if plan is None or plan.outcome is not Outcome.REFUSED:
            rehearsal = rehearse(
                system,
                clock,
                subject.vcpus if plan is None else plan.rewritten,
                guests=subject.vcpus,
                kernel=host_facts.kernel_release(),
            )
    except KvmError as error:
        raise UnreachableError(str(error)) from error
    if arguments.json:
        terminal.print_json("rehearse", _document(subject, plan, rehearsal))
    else:
        _print(subject, plan, rehearsal)
    return ExitCode.DONE if rehearsal is not None and not rehearsal.failures(allow) else ExitCode.REFUSED


def _destination(arguments: argparse.Namespace, subject: Subject, system: System, clock: Clock) -> Destination:
    """What is named, and this host where none is."""
    from dataclasses import replace

    from proxyd.cli.subject import load_destination
    from proxyd.kvm import host_facts
    from proxyd.kvm.probe import probe
    from proxyd.kvm.rehearsal import deduce_features
    from proxyd.rewrite.plan import Destination

    named = Destination()
    if arguments.destination is not None or arguments.profile is not None:
        named = load_destination(arguments.destination, arguments.profile)
    if named.host is not None:
        return named
    host = probe(
        system,
        clock,
        features=deduce_features(subject.vcpus),
        name="this host",
        kernel=host_facts.kernel_release(),
        qemu=host_facts.qemu_version(),
        variants=False,
    )
    return replace(named, host=host)


def _print(subject: Subject, plan: Plan | None, rehearsal: Rehearsal | None) -> None:
    from proxyd.cli import plan_view, terminal
    from proxyd.cli.rehearsal_view import print_rehearsal

    console = terminal.console()
    console.print(f"{terminal.plain(subject.name)}: {subject.described()}", soft_wrap=True)
    if plan is not None:
        plan_view.print_plan(console, plan)
    if rehearsal is None:
        console.print("not rehearsed: the plan refuses it already (--as-is tries it all the same)", soft_wrap=True)
    else:
        print_rehearsal(console, rehearsal)


def _document(subject: Subject, plan: Plan | None, rehearsal: Rehearsal | None) -> dict[str, Any]:
    from proxyd.rewrite.report import RewriteReport

    document: dict[str, Any] = {"file": subject.name, "kind": subject.kind}
    if plan is not None:
        report = RewriteReport(machine=subject.machine, plan=plan).to_json_dict()
        document["plan"] = {key: value for key, value in report.items() if key != "version"}
    if rehearsal is not None:
        document["rehearsal"] = {key: value for key, value in rehearsal.to_json_dict().items() if key != "version"}
    return document
