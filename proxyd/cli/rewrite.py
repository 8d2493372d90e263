"""Rewrite a saved stream for a destination; offline, by the same code as in a live migration.

IN and OUT are files, or '-' for standard input and output. OUT is there whole or not at all, and never the input
itself; a pipe gets the bytes as they come, and of a refused stream no device state. IN may be packed by xz or gzip,
OUT is not. The report goes to standard error.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxyd.cli.destination_arguments import add_destination_arguments
from proxyd.cli.exit_codes import ExitCode, InputError, RefusedError

if TYPE_CHECKING:
    from proxyd.rewrite.report import RewriteReport
    from proxyd.rewrite.rewriter import StreamRewriter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``rewrite --destination HOST.json|--profile FILE IN OUT [--json] [--report FILE] [--allow REGISTER]``."""
    add_destination_arguments(parser)
    parser.add_argument("input", metavar="IN", help="a saved stream, '-' for standard input")
    parser.add_argument("output", metavar="OUT", help="where the rewritten stream goes, '-' for standard output")
    parser.add_argument("--json", action="store_true", help="the report as a JSON document, on standard error")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report to FILE, as a JSON document")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Rewrite one stream."""
    from formats.errors import FormatError
    from proxyd.cli.output_file import open_output
    from proxyd.cli.stream_file import open_stream
    from proxyd.cli.subject import load_destination, register_ids
    from proxyd.cli.terminal import plain
    from proxyd.rewrite.knowledge import Knowledge
    from proxyd.rewrite.policy import ReturnPathPolicy, RewritePolicy
    from proxyd.rewrite.rewriter import RewriteRefused, StreamRewriter

    policy = RewritePolicy(
        destination=load_destination(arguments.destination, arguments.profile),
        knowledge=Knowledge.builtin(),
        allow=register_ids(arguments.allow),
        # A file has nobody who would wait for an answer.
        return_path=ReturnPathPolicy.OPTIONAL,
    )
    rewriter = StreamRewriter(policy)
    written = 0
    with open_stream(arguments.input) as file:
        try:
            with open_output(arguments.output, file.details) as output:
                for chunk in file.chunks():
                    for buffer in rewriter.feed(chunk):
                        output.write(buffer)
                        written += len(buffer)
                rewriter.finish()
        except FormatError as error:
            raise InputError(f"{plain(file.name)}: {plain(str(error))}") from error
        except RewriteRefused as error:
            _tell(arguments, rewriter, error.report, None)
            raise RefusedError(f"{plain(file.name)}: refused: {plain(str(error))}") from error
    _tell(arguments, rewriter, rewriter.report, written)
    return ExitCode.DONE


def _tell(
    arguments: argparse.Namespace, rewriter: StreamRewriter, report: RewriteReport | None, written: int | None
) -> None:
    """Give the report in the form that was asked for. ``written`` is None for a stream that was refused."""
    from proxyd.cli import plan_view, terminal

    document: dict[str, Any] = {
        "input": arguments.input,
        "output": arguments.output,
        "bytes_in": rewriter.bytes_in,
        "bytes_out": written,
        "passed_unchanged": rewriter.passthrough_reason,
    }
    if report is not None:
        document |= {key: value for key, value in report.to_json_dict().items() if key != "version"}
    if arguments.report is not None:
        arguments.report.write_text(terminal.json_text("rewrite", document))
    if arguments.json:
        terminal.print_json("rewrite", document, stderr=True)
        return
    console = terminal.console(stderr=True)
    if report is not None:
        plan_view.print_plan(console, report.plan)
    if rewriter.passthrough_reason is not None:
        console.print(f"passed unchanged: {terminal.plain(rewriter.passthrough_reason)}", soft_wrap=True)
    if written is not None:
        console.print(f"{terminal.plain(arguments.output)}: {written} bytes", soft_wrap=True)
