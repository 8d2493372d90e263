"""Make a host description: what a host's KVM lists, and which values it has.

With --from-stream it is made from a stream that was saved on that host: the list and the ID registers are the host's,
the other values are that guest's. Probing a live host comes with a later version.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from proxyd.cli.exit_codes import ExitCode, InputError, UsageError

if TYPE_CHECKING:
    from proxyd.cli.subject import Subject
    from proxyd.rewrite.host import HostDescription


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``probe --from-stream STREAM [-o HOST.json] [--name --kernel --qemu --accelerator]``."""
    parser.add_argument("--from-stream", metavar="STREAM", help="a stream saved on the host, '-' for standard input")
    parser.add_argument("-o", "--output", type=Path, metavar="HOST.json", help="write here (default: standard output)")
    parser.add_argument("--name", help="what to call the host (default: the stream's file name)")
    parser.add_argument("--kernel", help="the host's kernel, as uname -r says: it decides which values KVM accepts")
    parser.add_argument("--qemu", help="the version of the host's QEMU")
    parser.add_argument("--cpu", help="the host's CPU")
    parser.add_argument("--accelerator", choices=("kvm", "tcg"), default="kvm", help="default: %(default)s")
    parser.add_argument("--features", metavar="LIST", help="for probing a live host; comes with a later version")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Make the description."""
    from proxyd.cli import terminal
    from proxyd.cli.subject import load_subject

    if arguments.from_stream is None:
        raise UsageError(
            "probing a live host comes with a later version; save a stream on the host "
            '(QEMU monitor: migrate "exec:cat>FILE") and use --from-stream FILE'
        )
    if arguments.features is not None:
        raise UsageError("--features is for probing a live host; a stream's list shows which features its guest has")
    subject = load_subject(arguments.from_stream)
    if subject.host is not None:
        raise InputError(f"{arguments.from_stream}: a stream expected, found a host description")
    described = _describe(subject, arguments)
    said = terminal.console(stderr=True)
    if arguments.output is None:
        sys.stdout.write(described.to_json().decode())
    else:
        arguments.output.write_bytes(described.to_json())
        said.print(f"{arguments.output}: {len(described.registers)} registers", soft_wrap=True)
    if described.kernel is None and described.accelerator == "kvm":
        said.print("no --kernel given: without it, an ID register whose value differs at all will be refused")
    return ExitCode.DONE


def _describe(subject: Subject, arguments: argparse.Namespace) -> HostDescription:
    from formats.arm64.register_id import describe
    from proxyd.rewrite.host import HostDescription

    first, *others = subject.vcpus
    for other in others:
        if uneven := sorted(set(first.registers) ^ set(other.registers)):
            raise InputError(
                f"{subject.name}: the same registers on every vCPU expected, found {describe(uneven[0])} "
                f"on only one of vCPU {first.vcpu} and {other.vcpu}"
            )
    return HostDescription(
        name=arguments.name or _stem(subject.name),
        registers=first.registers,
        accelerator=arguments.accelerator,
        origin="stream",
        kernel=arguments.kernel,
        qemu=arguments.qemu,
        machine=subject.machine,
        cpu=arguments.cpu,
    )


def _stem(name: str) -> str:
    """``old-host`` of ``/var/tmp/old-host.bin.xz``."""
    stem = Path(name).name
    for ending in (".xz", ".gz", ".bin"):
        stem = stem.removesuffix(ending)
    return stem
