"""Tell what is known of a register, or what an error of QEMU's means and what to do.

WHAT is a register's name, its id in hex, its operands ("op0:3 op1:0 crn:2 crm:0 op2:3"), or a text that QEMU printed.
"""

from __future__ import annotations

import argparse
from typing import Any

from proxyd.cli.exit_codes import ExitCode, InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``explain REGISTER|ID|TEXT [--json]``."""
    parser.add_argument("what", metavar="WHAT", nargs="+", help="a register, an id, or a text that QEMU printed")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Explain. What is neither a register nor a known text is an error with close matches."""
    from formats.arm64.register_id import UnknownRegister, id_of
    from proxyd.cli import explain_view, terminal
    from proxyd.cli.qemu_errors import explain_error, registers_named

    text = " ".join(arguments.what)
    explanation = explain_error(text)
    registers = registers_named(text)
    if explanation is None and not registers:
        try:
            registers = (id_of(text),)
        except UnknownRegister as error:
            raise InputError(terminal.plain(str(error))) from error
    if arguments.json:
        document: dict[str, Any] = {
            "error": None if explanation is None else explain_view.error_document(explanation),
            "registers": [explain_view.register_document(register) for register in registers],
        }
        terminal.print_json("explain", document)
        return ExitCode.DONE
    console = terminal.console()
    if explanation is not None:
        explain_view.show_error(console, explanation)
    for register in registers:
        explain_view.show_register(console, register)
    return ExitCode.DONE
