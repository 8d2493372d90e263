"""The demo's story: for people as it happened, for scripts as one document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxyd.cli.plan_view import print_changes, print_notices, summary
from proxyd.cli.terminal import plain, plural
from proxyd.demo.qemu import DESTINATION_CPU, SOURCE_CPU

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from proxyd.demo.play import Story
    from proxyd.demo.qemu import QemuAttempt, QemuStory
    from proxyd.rewrite.report import RewriteReport


def show(console: Console, story: Story) -> None:
    """What happened, first directly, then through proxyd, and what was changed."""
    recording, kernel, there = story.recording, story.destination_host.kernel, len(story.destination_host.registers)
    registers = len(story.report.plan.vcpus[0].registers) if story.report is not None else 0
    console.print("The guest", style="bold")
    _facts(
        console,
        ("source", f"Linux {recording.kernel}, QEMU {recording.qemu}, KVM: a stream recorded from a real guest"),
        ("guest", f"{recording.cpu}, {plural(recording.vcpus, 'vCPU')} with {registers} registers, return path on"),
        ("destination", f"QEMU 10.0's loading rules, with the {there} registers of a real Linux {kernel}"),
    )
    console.print("\n1. Directly", style="bold")
    _direct(console, story.direct.destination.stderr, story.direct.source.status, story.direct.source.error)
    console.print("\n2. Through proxyd, on loopback", style="bold")
    _proxied(console, story.proxied.destination.stderr, story.proxied.source.status, "SHUT(0)", story.report)
    _close(console, story.report, story.proxied.source.status, story.seconds)


def show_qemu(console: Console, story: QemuStory) -> None:
    """The same with real QEMUs, and what the guest printed."""
    console.print("The guest", style="bold")
    _facts(
        console,
        ("QEMU", f"{plain(story.version)}, TCG, two processes"),
        ("guest", "bare metal, counts its timer's interrupts and looks after its registers"),
        ("source", f"-cpu {SOURCE_CPU}"),
        ("destination", f"-cpu {DESTINATION_CPU}: fewer registers, as if it were another kernel"),
    )
    console.print("\n1. Directly", style="bold")
    _direct(console, story.direct.stderr, story.direct.status, story.direct.error)
    _facts(console, ("guest", f"at the source: {_counting(story.direct.source_lines)}"))
    console.print("\n2. Through proxyd, on loopback", style="bold")
    _proxied(console, story.proxied.stderr, story.proxied.status, "the guest runs", story.report)
    console.print()
    _facts(
        console,
        ("guest", f"at the source: {_counting(story.proxied.source_lines)}"),
        ("", f"at the destination: {_counting(story.proxied.destination_lines)}"),
    )
    _close(console, story.report, story.proxied.status, story.seconds)


def _direct(console: Console, stderr: Sequence[str], status: str, error: str | None) -> None:
    console.print("destination's QEMU says:")
    for line in stderr:
        console.print(f"  {plain(line)}", style="red", soft_wrap=True)
    _facts(console, ("source", f"{status}: {error or 'no error'}; the guest goes on there"))


def _proxied(console: Console, stderr: Sequence[str], status: str, loaded: str, report: RewriteReport | None) -> None:
    for line in stderr:
        console.print(f"  {plain(line)}", style="red", soft_wrap=True)
    said = f"loaded, {loaded}" if status == "completed" else "not loaded"
    _facts(console, ("destination", said), ("source", status))
    if report is not None:
        print_changes(console, report.plan.changes)
        print_notices(console, report.plan.notices)


def _close(console: Console, report: RewriteReport | None, status: str, seconds: float) -> None:
    changed = "nothing was rewritten" if report is None else summary(report.plan)
    outcome = "without proxyd it fails, through proxyd it loads" if status == "completed" else "it did not load"
    console.print(f"\n{outcome}: {changed}, {seconds:.1f} s", style="bold", soft_wrap=True)


def _facts(console: Console, *facts: tuple[str, str]) -> None:
    for name, text in facts:
        console.print(f"{name:<12} {text}", soft_wrap=True)


def _counting(lines: Sequence[str]) -> str:
    counted = [line for line in lines if line[:1].isdigit()]
    if not counted:
        return "nothing"
    notices = " (id: what the guest reads differently now, as the table says)" if "id:" in counted[-1] else ""
    return f"{plain(counted[0])} ... {plain(counted[-1])}{notices}"


def document(story: Story) -> dict[str, Any]:
    """The same for ``--json``."""
    return {
        "source_kernel": story.recording.kernel,
        "destination_kernel": story.destination_host.kernel,
        "direct": {
            "source_status": story.direct.source.status,
            "source_error": story.direct.source.error,
            "destination_stderr": list(story.direct.destination.stderr),
        },
        "proxied": {
            "source_status": story.proxied.source.status,
            "source_error": story.proxied.source.error,
            "destination_stderr": list(story.proxied.destination.stderr),
        },
        "seconds": round(story.seconds, 3),
    } | _report_document(story.report)


def qemu_document(story: QemuStory) -> dict[str, Any]:
    """The same for ``--qemu --json``."""
    return {
        "qemu": story.version,
        "direct": _attempt_document(story.direct),
        "proxied": _attempt_document(story.proxied),
        "seconds": round(story.seconds, 3),
    } | _report_document(story.report)


def _attempt_document(attempt: QemuAttempt) -> dict[str, Any]:
    return {
        "source_status": attempt.status,
        "source_error": attempt.error,
        "destination_stderr": list(attempt.stderr),
        "guest_at_source": list(attempt.source_lines),
        "guest_at_destination": list(attempt.destination_lines),
    }


def _report_document(report: RewriteReport | None) -> dict[str, Any]:
    return {"report": None if report is None else report.to_json_dict()}
