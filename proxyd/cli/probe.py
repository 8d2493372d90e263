"""Make a host description: what a host's KVM lists, and which values it has.

Without --from-stream this host's KVM is asked: it must be an arm64 host, and /dev/kvm must be open to this user. No
guest is started. --features says what the guests' vCPUs have: psci, pmu, sve, pauth, el2, mte; without it, what QEMU's
-cpu host takes.

With --from-stream it is made from a stream that was saved on that host: the list and the ID registers are the host's,
the other values are that guest's.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from proxyd.cli.exit_codes import ExitCode, InputError, UnreachableError, UsageError

if TYPE_CHECKING:
    from proxyd.cli.subject import Subject
    from proxyd.kvm.counter import Clock
    from proxyd.kvm.system import System
    from proxyd.rewrite.host import HostDescription


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``probe [--features LIST] ...`` and ``probe --from-stream STREAM ...``."""
    parser.add_argument("--from-stream", metavar="STREAM", help="a stream saved on the host, '-' for standard input")
    parser.add_argument("-o", "--output", type=Path, metavar="HOST.json", help="write here (default: standard output)")
    parser.add_argument("--name", help="what to call the host (default: its own name, or the stream's file name)")
    parser.add_argument("--features", metavar="LIST", help="of the guests' vCPUs (default: psci,pmu,sve,pauth)")
    parser.add_argument("--qemu", help="the version of the host's QEMU (default: the one that is installed here)")
    stream = parser.add_argument_group("with --from-stream")
    stream.add_argument("--kernel", help="the host's kernel, as uname -r says: it decides which values KVM accepts")
    stream.add_argument("--cpu", help="the host's CPU")
    stream.add_argument("--accelerator", choices=("kvm", "tcg"), help="default: kvm")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Make the description."""
    described = _of_this_host(arguments) if arguments.from_stream is None else _of_a_stream(arguments)
    if arguments.output is None:
        sys.stdout.write(described.to_json().decode())
    else:
        arguments.output.write_bytes(described.to_json())
        _say(f"{arguments.output}: {len(described.registers)} registers")
    if described.kernel is None and described.accelerator == "kvm":
        _say("no --kernel given: without it, an ID register whose value differs at all will be refused")
    return ExitCode.DONE


def _of_this_host(arguments: argparse.Namespace) -> HostDescription:
    from proxyd.kvm import host_facts
    from proxyd.kvm.features import OF_CPU_HOST, parse_features
    from proxyd.kvm.probe import probe
    from proxyd.kvm.system import KvmError, WrongHost

    for option in ("kernel", "cpu", "accelerator"):
        if getattr(arguments, option) is not None:
            raise UsageError(f"--{option} goes with --from-stream: a host that is asked says it itself")
    try:
        features = OF_CPU_HOST if arguments.features is None else parse_features(arguments.features)
    except ValueError as error:
        raise UsageError(f"--features: {error}") from error
    system, clock = live_host()
    try:
        described = probe(
            system,
            clock,
            features=features,
            name=arguments.name or os.uname().nodename,
            kernel=host_facts.kernel_release(),
            qemu=arguments.qemu or host_facts.qemu_version(),
            midrs=host_facts.host_midrs(),
        )
    except WrongHost as error:
        raise UnreachableError(f"{error} (or give --from-stream)") from error
    except KvmError as error:
        raise UnreachableError(str(error)) from error
    for feature, reason in (described.missing_features or {}).items():
        _say(f"left out: {feature}: {reason}")
    if len(described.midrs or ()) > 1:
        _say(f"{len(described.midrs or ())} kinds of CPU: a guest's registers depend on where its QEMU is pinned")
    return described


def live_host() -> tuple[System, Clock]:
    """What a live probe asks; tests have a host of their own."""
    from proxyd.kvm.counter import HostClock
    from proxyd.kvm.system import Linux

    return Linux(), HostClock()


def _of_a_stream(arguments: argparse.Namespace) -> HostDescription:
    from formats.arm64.register_id import describe
    from proxyd.cli.subject import load_subject
    from proxyd.rewrite.host import HostDescription

    if arguments.features is not None:
        raise UsageError("--features is for probing a live host; a stream's list shows which features its guest has")
    subject = load_subject(arguments.from_stream)
    if subject.host is not None:
        raise InputError(f"{arguments.from_stream}: a stream expected, found a host description")
    first, *others = subject.vcpus
    for other in others:
        if uneven := sorted(set(first.registers) ^ set(other.registers)):
            raise InputError(
                f"{subject.name}: the same registers on every vCPU expected, found {describe(uneven[0])} "
                f"on only one of vCPU {first.vcpu} and {other.vcpu}"
            )
    return HostDescription(
        name=arguments.name or _stem(subject),
        registers=first.registers,
        accelerator=arguments.accelerator or "kvm",
        origin="stream",
        kernel=arguments.kernel,
        qemu=arguments.qemu,
        machine=subject.machine,
        cpu=arguments.cpu,
    )


def _stem(subject: Subject) -> str:
    """``old-host`` of ``/var/tmp/old-host.bin.xz``."""
    stem = Path(subject.name).name
    for ending in (".xz", ".gz", ".bin"):
        stem = stem.removesuffix(ending)
    return stem


def _say(text: str) -> None:
    from proxyd.cli import terminal

    terminal.console(stderr=True).print(text, soft_wrap=True)
