"""Compare two streams or host descriptions: registers only here, only there, with another value.

A and B are saved streams or host descriptions, in any mix; one of them may be '-'. ID registers are compared field by
field. vCPUs of two streams are compared by number; a host description stands for every vCPU.

Of two host descriptions it is said first, in words and for both directions, what it means for guests.

A host description made by a probe holds the values of a fresh vCPU, so beside a stream it differs in everything that a
guest has written. What must agree are the ID registers and the lists.
"""

from __future__ import annotations

import argparse

from proxyd.cli.exit_codes import ExitCode, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``diff A B [--json]``."""
    parser.add_argument("a", metavar="A", help="a stream or host description")
    parser.add_argument("b", metavar="B", help="another")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Compare. Differences are no error: exit code 0."""
    from proxyd.cli import diff_view, terminal
    from proxyd.cli.comparison import compare
    from proxyd.cli.stream_file import STANDARD_INPUT
    from proxyd.cli.subject import load_subject
    from proxyd.rewrite.host_diff import compare_hosts
    from proxyd.rewrite.knowledge import Knowledge

    if arguments.a == arguments.b == STANDARD_INPUT:
        raise UsageError("only one of A and B can be '-'")
    a, b = load_subject(arguments.a), load_subject(arguments.b)
    comparison = compare(a, b)
    guests = None if a.host is None or b.host is None else compare_hosts(a.host, b.host, Knowledge.builtin())
    if arguments.json:
        terminal.print_json("diff", diff_view.document(a, b, comparison, guests))
    else:
        diff_view.show(terminal.console(), a, b, comparison, guests)
    return ExitCode.DONE
