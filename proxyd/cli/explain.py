"""Tell what is known of a register, or what an error of QEMU's, KVM's or proxyd's means and what to do.

WHAT is a register's name, its id in hex, its operands ("op0:3 op1:0 crn:2 crm:0 op2:3"), or a text out of a log: one
line, many, or '-' for standard input. Of many lines the most particular cause is told first.

With --propose, WHAT is the file with the log of a destination that failed ('-' for standard input): the rule that would
have fitted is printed as a profile to be reviewed. Nothing applies it by itself.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from proxyd.cli.exit_codes import ExitCode, InputError, UsageError

# A log of a migration has some dozen lines; a day of a daemon's is read as well.
MAX_LOG_BYTES: Final = 16 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``explain REGISTER|ID|TEXT|- [--json]``."""
    parser.add_argument(
        "what", metavar="WHAT", nargs="+", help="a register, an id, or a text out of a log ('-': stdin)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--propose", action="store_true", help="draft the rule that would have fitted the log WHAT")
    parser.add_argument("--stream", metavar="STREAM", help="with --propose: the stream, or the source's description")
    parser.add_argument("--destination", metavar="HOST.json", help="with --propose: the destination's description")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Explain. What is neither a register nor a known text is an error with close matches."""
    if arguments.propose:
        from proxyd.cli import explain_proposal

        return explain_proposal.run(arguments)
    if arguments.stream is not None or arguments.destination is not None:
        raise UsageError("--stream and --destination go with --propose")
    from formats.arm64.register_id import UnknownRegister, id_of
    from formats.qemu_log import registers_in
    from proxyd.cli import explain_view, terminal
    from proxyd.cli.log_explained import explain_log
    from proxyd.rewrite.knowledge import Knowledge

    text = read_log("-") if arguments.what == ["-"] else " ".join(arguments.what)
    log = explain_log(text)
    registers = log.registers or registers_in(text)
    if not log.errors and not registers:
        if log.others > 1:
            raise InputError(f"a text that QEMU, KVM or proxyd prints expected, found none in {log.others} lines")
        try:
            registers = (id_of(text),)
        except UnknownRegister as error:
            raise InputError(terminal.plain(str(error))) from error
    knowledge = Knowledge.builtin()
    if arguments.json:
        document: dict[str, Any] = {
            "error": explain_view.error_document(log.errors[0].explanation) if log.errors else None,
            "errors": [explain_view.lines_document(one, knowledge) for one in log.errors],
            "registers": [explain_view.register_document(register) for register in registers],
        }
        terminal.print_json("explain", document)
        return ExitCode.DONE
    console = terminal.console()
    one_line = log.others + sum(len(one.lines) for one in log.errors) <= 1
    for one in log.causes:
        explain_view.show_lines(console, one, knowledge, quoted=not one_line)
    if log.consequences:
        explain_view.show_consequences(console, log.consequences)
    if one_line or not log.errors:
        for register in registers:
            explain_view.show_register(console, register)
    elif registers:
        explain_view.show_names(console, registers)
    return ExitCode.DONE


def read_log(path: str) -> str:
    """A log file, or '-' for standard input. Raises :class:`OSError` and :class:`InputError`."""
    if path == "-":
        data = sys.stdin.buffer.read(MAX_LOG_BYTES + 1)
    else:
        with open(path, "rb") as file:
            data = file.read(MAX_LOG_BYTES + 1)
    if len(data) > MAX_LOG_BYTES:
        raise InputError(f"{path}: a log of at most {MAX_LOG_BYTES} bytes expected, found more")
    return data.decode(errors="replace")
