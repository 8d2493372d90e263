"""Rewrite saved guests for a destination; offline, by the same code as in a live migration.

IN is a file that holds a migration stream: of migrate file: or exec:, with mapped-ram or without, or a libvirt save
image in any of its formats (virsh save, managedsave); or '-', standard input. OUT is the same kind of file ('-' is
standard output): there whole or not at all, and never the input itself; a pipe gets the bytes as they come, and of a
refused stream no device state. A stream that is packed without a save image's head is unpacked on the way.

What is before the device part is read back from OUT and proven to be IN's before OUT gets its name.

--in-place replaces IN instead, with the same care, or leaves it alone where nothing has to change.

With two directories all images in the first are rewritten into the second, with --in-place all of a directory's: one
that fails does not stop the others. Run again, it goes on where it was: what is there already is compared with what
would be written now, and not written again.

The report goes to standard error. The exit code is that of the worst image: 4, 1, 3, 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from proxyd.cli.destination_arguments import add_destination_arguments
from proxyd.cli.exit_codes import ExitCode, UsageError

if TYPE_CHECKING:
    from proxyd.rewrite.policy import RewritePolicy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``rewrite --destination HOST.json|--profile FILE IN OUT [--json] [--report FILE] [--allow REGISTER]``."""
    add_destination_arguments(parser)
    parser.add_argument("input", metavar="IN", help="a file that holds a stream, or a directory; '-': standard input")
    parser.add_argument(
        "output", metavar="OUT", nargs="?", help="where the rewritten file goes, or a directory; '-': standard output"
    )
    parser.add_argument("--in-place", action="store_true", help="replace IN, atomically, instead of writing OUT")
    parser.add_argument("--no-verify", action="store_true", help="do not read back what was written")
    parser.add_argument("--json", action="store_true", help="the report as a JSON document, on standard error")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report to FILE, as a JSON document")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Rewrite one file or a directory."""
    from proxyd.cli import rewrite_directory, rewrite_view
    from proxyd.cli.image_job import ImageRefused, Job, work
    from proxyd.cli.stream_file import STANDARD_INPUT

    if arguments.in_place == (arguments.output is not None):
        raise UsageError("either OUT or --in-place expected, found " + ("both" if arguments.in_place else "neither"))
    if arguments.input != STANDARD_INPUT and Path(arguments.input).is_dir():
        return rewrite_directory.run(arguments, _policy(arguments))
    job = Job(arguments.input, arguments.output, prove=not arguments.no_verify)
    policy = _policy(arguments)
    try:
        done = work(job, policy)
    except ImageRefused as error:
        rewrite_view.tell(arguments, error.done)
        raise
    rewrite_view.tell(arguments, done)
    return ExitCode.DONE


def _policy(arguments: argparse.Namespace) -> RewritePolicy:
    from proxyd.cli.subject import load_destination, register_ids
    from proxyd.rewrite.knowledge import Knowledge
    from proxyd.rewrite.policy import PostcopyPolicy, ReturnPathPolicy, RewritePolicy

    return RewritePolicy(
        destination=load_destination(arguments.destination, arguments.profile),
        knowledge=Knowledge.builtin(),
        allow=register_ids(arguments.allow),
        # A file has nobody who would wait for an answer.
        return_path=ReturnPathPolicy.OPTIONAL,
        # Its source had the capability and could not use it; and a refusal here takes no guest from anybody.
        postcopy=PostcopyPolicy.SOURCES_10_2,
    )
