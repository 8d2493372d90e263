"""Show what is in a stream: sections, sizes, memory, devices, registers by name.

FILE is a saved stream or a libvirt save image; '-' is standard input. Packed files are unpacked on the way.
"""

from __future__ import annotations

import argparse
import sys

from proxyd.cli.exit_codes import ExitCode, InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``inspect FILE [--json] [--registers] [--section IDSTR]``."""
    parser.add_argument("file", metavar="FILE", help="a saved stream, '-' for standard input")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--registers", action="store_true", help="every register of every vCPU")
    parser.add_argument("--section", metavar="IDSTR", help="the fields of the device sections of this name")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Inspect one file. What was read before an error is shown, and the error ends the command."""
    from proxyd.cli import inspect_view, terminal
    from proxyd.cli.stream_facts import collect
    from proxyd.cli.stream_file import open_stream

    with open_stream(arguments.file) as file:
        facts = collect(file)
    name = terminal.plain(facts.name)
    if facts.tail is not None and arguments.section is not None and not facts.sections_named(arguments.section):
        there = ", ".join(dict.fromkeys(section.device.name for section in facts.tail.sections))
        raise InputError(f"{name}: device section {arguments.section!r} expected, found only {terminal.plain(there)}")
    if arguments.json:
        document = inspect_view.document(facts, arguments.section, registers=arguments.registers)
        terminal.print_json("inspect", document)
    elif facts.header is not None:
        inspect_view.show(terminal.console(), facts, arguments.section, registers=arguments.registers)
    if facts.error is not None:
        sys.stdout.flush()
        raise InputError(f"{name}: {terminal.plain(str(facts.error))}")
    return ExitCode.DONE
