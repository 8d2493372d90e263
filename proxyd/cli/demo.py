"""Show the main job: a recorded stream through a live proxyd, before and after.

A stream recorded from a real KVM guest under Linux 6.12 is migrated to a destination that applies QEMU's own loading
rules with the register list of a real Linux 7.3: first directly, then through a proxyd on loopback. It needs nothing
but Python. With --qemu, two real QEMU processes do it, with a guest that counts.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from proxyd.cli.exit_codes import ExitCode, Terminated, UnreachableError

if TYPE_CHECKING:
    import trio

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``demo [--qemu [--qemu-binary PATH]] [--json]``."""
    parser.add_argument("--qemu", action="store_true", help="with two real QEMU processes")
    parser.add_argument("--qemu-binary", metavar="PATH", help="this QEMU instead of qemu-system-aarch64 in PATH")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Show it. Exit code 0 means that it failed without proxyd and loaded with it."""
    if arguments.qemu or arguments.qemu_binary is not None:
        return _with_qemu(arguments)
    from proxyd.cli import demo_view, terminal
    from proxyd.demo import play

    story = _run(play.play)
    if arguments.json:
        terminal.print_json("demo", demo_view.document(story))
    else:
        demo_view.show(terminal.console(), story)
    return _verdict(direct_failed=bool(story.direct.destination.stderr), proxied=story.proxied.source.status)


def _with_qemu(arguments: argparse.Namespace) -> ExitCode:
    from proxyd.cli import demo_view, terminal
    from proxyd.demo import qemu

    try:
        program = qemu.find(arguments.qemu_binary)
        story = _run(partial(qemu.play, program))
    except qemu.QemuMissing as error:
        raise UnreachableError(str(error)) from error
    except qemu.QemuUnfit as error:
        raise UnreachableError(f"{program}: {error}") from error
    if arguments.json:
        terminal.print_json("demo", demo_view.qemu_document(story))
    else:
        demo_view.show_qemu(terminal.console(), story)
    return _verdict(direct_failed=story.direct.status == "failed", proxied=story.proxied.status)


def _run(play: Callable[[], Awaitable[T]]) -> T:
    """Run a plot. SIGINT and SIGTERM end it in order, so that no QEMU is left behind, and leave as they would have."""
    import trio

    results: list[T] = []
    errors: list[Exception] = []
    signals: list[int] = []

    async def watch(scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            task_status.started()
            signals.append(await anext(received))
            scope.cancel()

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(watch, nursery.cancel_scope)
            try:
                results.append(await play())
            except Exception as error:  # noqa: BLE001 - raised below, outside the nursery that would wrap it
                errors.append(error)
            nursery.cancel_scope.cancel()

    trio.run(run)
    if errors:
        raise errors[0]
    if signals:
        raise KeyboardInterrupt if signals[0] == signal.SIGINT else Terminated
    return results[0]


def _verdict(*, direct_failed: bool, proxied: str) -> ExitCode:
    """The demo is data that we ship: if it does not come out as it should, that is a bug of ours."""
    return ExitCode.DONE if direct_failed and proxied == "completed" else ExitCode.INTERNAL
