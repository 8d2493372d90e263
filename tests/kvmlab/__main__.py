"""The lab's command line. Every verb boots what it needs, does one thing, and ends everything again."""

import argparse
import functools
import hashlib
import json
import lzma
import os
import shlex
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from tests.kvmlab.arm64_python import COMMAND, proxyd_archive
from tests.kvmlab.catalogue import LabError, catalogue
from tests.kvmlab.guest import PROGRAMS, GuestSpec, start_guest
from tests.kvmlab.host import HostSpec
from tests.kvmlab.hostdesc import host_description, read_register_list
from tests.kvmlab.judgement import mismatches
from tests.kvmlab.lab import Lab, open_lab, print_progress, set_up
from tests.kvmlab.linux_image import LINUX
from tests.kvmlab.matrix import Cell, leaves, parse_pair, run_matrix
from tests.kvmlab.migration import migrate
from tests.kvmlab.mode import Mode
from tests.kvmlab.pair import attempt_directly, attempt_through_proxyd, boot_pair
from tests.kvmlab.recorder import recording_relay
from tests.kvmlab.report import page
from tests.kvmlab.results import Results, read_results, write_short
from tests.kvmlab.selection import selected

Verb = Callable[[Lab, argparse.Namespace], Awaitable[int]]


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return 0, 1 when it ended with an error, 2 for wrong arguments."""
    arguments = _parser().parse_args(argv)
    verb: Verb | None = arguments.verb
    if verb is None and "results" in arguments:
        return _report(arguments)
    try:
        if verb is _matrix:
            arguments.cells = _cells(arguments)
            kernels = [kernel for cell in arguments.cells for kernel in (cell.source, cell.destination)]
            inner = list(dict.fromkeys(cell.guest.qemu for cell in arguments.cells))
            linux = any(cell.guest.program == LINUX for cell in arguments.cells)
        else:
            kernels = [kernel for text in arguments.kernels for kernel in text.split(":")]
            inner = [arguments.qemu]
            linux = getattr(arguments, "program", "") == LINUX
        images = set_up(kernels, print_progress, outer=arguments.outer, inner=inner, linux=linux)
        if verb is None:
            return 0

        async def run() -> int:
            async with open_lab(images) as lab:
                with trio.fail_after(arguments.time_limit * 60):
                    return await verb(lab, arguments)

        return trio.run(run)
    except* LabError as group:
        for error in leaves(group):
            print(f"kvmlab: {error}", file=sys.stderr)
    except* trio.TooSlowError:
        print(f"kvmlab: not done within {arguments.time_limit} minutes", file=sys.stderr)
    except* KeyboardInterrupt:
        print("kvmlab: interrupted", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    known = catalogue()
    parser = argparse.ArgumentParser(prog="python -m tests.kvmlab", description="Real arm64 kernels with real KVM.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def add(name: str, text: str, verb: Verb | None, kernels: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=verb)
        number = "*" if verb is _matrix else "+" if kernels.endswith("...") else 1
        sub.add_argument("kernels", nargs=number, metavar=kernels, help=f"of {', '.join(known.kernels)}")
        sub.add_argument("--outer", default=known.outer, choices=known.qemus, help="QEMU that emulates the hosts")
        sub.add_argument("--time-limit", type=float, default=30, metavar="MINUTES", help="(default: %(default)s)")
        if name != "matrix":
            sub.add_argument("--cpu", default=known.cpu, help="CPU of the hosts (default: %(default)s)")
            sub.add_argument("--qemu", default=known.inner, choices=known.qemus, help="QEMU in the hosts")
        return sub

    def add_guest(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--vcpus", type=int, default=1)
        sub.add_argument("--devices", default="plain", choices=known.devices)
        sub.add_argument("--program", default="checker", choices=PROGRAMS)

    add("setup", "Fetch and build what hosts with these kernels need.", None, "KERNEL...")
    host = add("host", "Boot a host, tell how long it took, wait for Enter or the time limit.", _host, "KERNEL")
    host.add_argument("--quick", action="store_true", help="do not wait")
    guest = add("guest", "Run a guest under KVM on a host and show what it prints.", _guest, "KERNEL")
    guest.add_argument("--ticks", type=int, default=20)
    move = add("migrate", "Move a guest live, directly and through proxyd.", _migrate, "SOURCE:DESTINATION")
    move.add_argument("--mode", type=Mode, default=Mode.PRECOPY, choices=list(Mode), help="(default: %(default)s)")
    move.add_argument("--direct-only", action="store_true")
    matrix = add("matrix", "Move guests between many pairs; results as JSON lines.", _matrix, "SOURCE:DESTINATION...")
    matrix.add_argument("--all", dest="selection", action="store_const", const="all", help="the whole of matrix.toml")
    matrix.add_argument("--chosen", dest="selection", action="store_const", const="chosen", help="CI's part of it")
    matrix.add_argument("--jobs", type=int, default=3, help="cells at a time (default: %(default)s)")
    matrix.set_defaults(time_limit=240)
    matrix.add_argument("--cpu", nargs="+", default=[known.cpu], help="CPUs of the hosts (default: %(default)s)")
    matrix.add_argument("--qemu", nargs="+", default=[known.inner], choices=known.qemus, help="QEMUs in the hosts")
    matrix.add_argument(
        "--results", type=Path, required=True, metavar="FILE", help="appended to; done pairs are skipped"
    )
    capture = add("capture", "Record a stream with a return path, from a move to the same kernel.", _capture, "KERNEL")
    capture.add_argument("--directory", type=Path, default=Path("tests/streams"))
    reglist = add("reglist", "Print the register list that KVM shows, as JSON.", _reglist, "KERNEL")
    reglist.add_argument("--host-description", action="store_true", help="in the format of proxyd probe")
    add("probe", "Print what proxyd probe says on a host, as tests/hosts keeps it.", _probe, "KERNEL")
    shell = add("shell", "Run a command on a host, or lines from standard input.", _shell, "KERNEL")
    shell.add_argument("command", nargs="?")
    for sub in (guest, move, matrix, capture):
        add_guest(sub)
    report = verbs.add_parser("report", help="Write docs/compatibility.md from a matrix's results.")
    report.set_defaults(verb=None)
    report.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="later ones take earlier ones' place")
    report.add_argument("-o", dest="page", type=Path, metavar="PAGE", help="(default: standard output)")
    report.add_argument("--keep", type=Path, metavar="FILE.jsonl.xz", help="write the short form of the results, too")
    return parser


def _host_spec(arguments: argparse.Namespace) -> HostSpec:
    return HostSpec(arguments.kernels[0], arguments.cpu)


def _guest_spec(arguments: argparse.Namespace) -> GuestSpec:
    return GuestSpec(
        arguments.qemu,
        arguments.vcpus,
        arguments.devices,
        arguments.program,
        mode=getattr(arguments, "mode", Mode.PRECOPY),
    )


async def _host(lab: Lab, arguments: argparse.Namespace) -> int:
    host = await lab.boot(_host_spec(arguments))
    print((await host.run("uname -a; dmesg | grep kvm")).strip())
    if not arguments.quick:
        print("Enter ends it.", file=sys.stderr)
        await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return 0


async def _guest(lab: Lab, arguments: argparse.Namespace) -> int:
    guest = await start_guest(await lab.boot(_host_spec(arguments)), _guest_spec(arguments))
    lab.progress(f"guest: counting after {guest.start_seconds:.1f} s")
    tick = await guest.checker.some_more(arguments.ticks)
    print("\n".join([*guest.complaints(), *guest.checker.lines.items]))
    return 0 if tick.clean else 1


async def _migrate(lab: Lab, arguments: argparse.Namespace) -> int:
    source, destination = (HostSpec(kernel, arguments.cpu) for kernel in parse_pair(arguments.kernels[0]))
    hosts = await boot_pair(lab, source, destination)
    attempts = {"direct": await attempt_directly(lab, hosts, _guest_spec(arguments))}
    if not arguments.direct_only:
        with tempfile.TemporaryDirectory() as directory:
            attempts["proxied"] = await attempt_through_proxyd(lab, hosts, _guest_spec(arguments), Path(directory))
    print(json.dumps({name: attempt.to_json() for name, attempt in attempts.items()}, indent=1))
    last = list(attempts.values())[-1]
    return 0 if last.runs_on == "destination" and last.clean else 1


def _cells(arguments: argparse.Namespace) -> list[Cell]:
    """Return the cells that were asked for; raises LabError when there is none."""
    if arguments.selection:
        return list(selected(arguments.selection))
    cells = [
        Cell(*parse_pair(pair), cpu, GuestSpec(qemu, arguments.vcpus, arguments.devices, arguments.program))
        for cpu in arguments.cpu
        for qemu in arguments.qemu
        for pair in arguments.kernels
    ]
    if not cells:
        raise LabError("no pair: name some, or --all, or --chosen")
    return cells


async def _matrix(lab: Lab, arguments: argparse.Namespace) -> int:
    os.nice(5)  # it takes hours, and leaves the machine to others; hosts inherit it
    with tempfile.TemporaryDirectory() as directory:
        errors = await run_matrix(lab, arguments.cells, arguments.results, Path(directory), arguments.jobs)
    return 1 if errors or not _as_predicted(read_results([arguments.results])) else 0


def _as_predicted(results: Results) -> bool:
    """Tell of each cell that was not as predicted; True if there is none, and none that broke off."""
    found = [(key, text) for key, cell in results.cells.items() for text in mismatches(cell, results)]
    for key, text in [*found, *results.broken.items()]:
        print(f"{key}: {text}", file=sys.stderr)
    return not found and not results.broken


def _report(arguments: argparse.Namespace) -> int:
    """Write the page; 1 when it has a mismatch, or a cell that broke off."""
    results = read_results(arguments.results)
    if arguments.keep:
        write_short(results, arguments.keep)
    text = page(results)
    if arguments.page:
        arguments.page.write_text(text)
    else:
        print(text, end="")
    return 0 if _as_predicted(results) else 1


async def _capture(lab: Lab, arguments: argparse.Namespace) -> int:
    """Two hosts with the same kernel, so that the migration completes and the stream is a whole one."""
    hosts = await boot_pair(lab, _host_spec(arguments), _host_spec(arguments))
    spec = _guest_spec(arguments)
    source = await start_guest(hosts[0], spec)
    destination = await start_guest(hosts[1], spec, incoming=True)
    before = await source.checker.some_more()
    async with recording_relay(hosts[1].incoming_port) as recording:
        outcome = await migrate(source, destination, recording.port)
    if outcome.source_status != "completed":
        raise LabError(f"the migration did not complete: {outcome.source_error}")
    version = (await destination.qmp.execute("query-version"))["qemu"]
    qemu = f"{version['major']}.{version['minor']}.{version['micro']}"
    kind = "returnpath" if spec.devices == "plain" else f"returnpath-{spec.devices}"
    name = f"{arguments.kernels[0]}-{qemu}-{arguments.cpu}-{kind}-smp{spec.vcpus}"
    stream = bytes(recording.stream)
    facts = {
        "kernel": hosts[0].release,
        "cpu": arguments.cpu,
        "accelerator": "kvm",
        "qemu": qemu,
        "outer_qemu": arguments.outer,
        "machine": catalogue().qemu(spec.qemu).machine,
        "guest_cpu": spec.cpu,
        "vcpus": spec.vcpus,
        "memory_mib": spec.memory_mib,
        "devices": spec.devices,
        "capabilities": ["return-path"],
        "guest": f"tests/guest/{'linux_worker' if spec.program == LINUX else 'kvm_checker'}.c as {spec.program}",
        "ticks_before": list(before.counts),
        "made": "python -m tests.kvmlab capture",
        "bytes": len(stream),
        "sha256": hashlib.sha256(stream).hexdigest(),
    }
    packed = lzma.compress(stream, preset=9 | lzma.PRESET_EXTREME)
    (arguments.directory / f"{name}.bin.xz").write_bytes(packed)
    (arguments.directory / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    lab.progress(f"{name}: {len(stream)} bytes, {len(packed)} compressed")
    return 0


async def _probe(lab: Lab, arguments: argparse.Namespace) -> int:
    spec = _host_spec(arguments)
    host = await lab.boot(spec, [proxyd_archive()])
    name = shlex.quote(f"Linux {spec.kernel} on {spec.cpu}")
    qemu = shlex.quote(arguments.qemu)
    await host.run(f"{COMMAND} probe --name {name} --qemu {qemu} -o /tmp/host.json", seconds=300)
    sys.stdout.write(await host.run("cat /tmp/host.json"))
    return 0


async def _reglist(lab: Lab, arguments: argparse.Namespace) -> int:
    listed = await read_register_list(await lab.boot(_host_spec(arguments)))
    if arguments.host_description:
        print(host_description(listed, arguments.qemu).decode())
    else:
        print(json.dumps(listed, indent=1))
    return 0


async def _shell(lab: Lab, arguments: argparse.Namespace) -> int:
    host = await lab.boot(_host_spec(arguments))
    if arguments.command:
        print(await host.run(arguments.command, seconds=600), end="")
        return 0
    read = functools.partial(trio.to_thread.run_sync, sys.stdin.readline, abandon_on_cancel=True)
    while line := await read():
        try:
            print(await host.run(line, seconds=600), end="", flush=True)
        except LabError as error:
            print(error, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
