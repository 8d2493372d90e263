"""What ``rewrite`` says of a file and of a directory: lines for people, a document for scripts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxyd.cli import plan_view, terminal
from proxyd.cli.exit_codes import ExitCode
from proxyd.cli.terminal import plain, plural, print_table, size_of, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from proxyd.cli.image_job import Done


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a directory: what became of it, or the error that ended the work on it."""

    name: str
    result: str
    code: ExitCode
    done: Done | None = None
    error: str | None = None


def document_of(done: Done) -> dict[str, Any]:
    """One file's report."""
    document: dict[str, Any] = {
        "input": done.job.input,
        "output": done.job.input if done.job.output is None else done.job.output,
        "container": done.container,
        "result": done.result,
        "bytes_in": done.bytes_in,
        "bytes_out": done.content_bytes,
        "passed_unchanged": done.passed_unchanged,
        "identity": None
        if done.identity is None
        else {
            "ram_bytes": done.identity.ram_bytes,
            "algorithm": done.identity.algorithm,
            "digest": done.identity.digest,
            "identical": True,
        },
    }
    if done.report is not None:
        document |= {key: value for key, value in done.report.to_json_dict().items() if key != "version"}
    return document


def tell(arguments: argparse.Namespace, done: Done) -> None:
    """Give one file's report in the form that was asked for."""
    document = document_of(done)
    if arguments.report is not None:
        arguments.report.write_text(terminal.json_text("rewrite", document))
    if arguments.json:
        terminal.print_json("rewrite", document, stderr=True)
        return
    console = terminal.console(stderr=True)
    if done.report is not None:
        plan_view.print_plan(console, done.report.plan)
    if done.passed_unchanged is not None:
        console.print(f"passed unchanged: {plain(done.passed_unchanged)}", soft_wrap=True)
    if done.result == "unchanged":
        console.print(f"{plain(done.job.input)}: nothing to change, left as it is", soft_wrap=True)
    if done.identity is not None:
        proof = f"{done.identity.ram_bytes} bytes before the device part read back, identical"
        console.print(f"{proof} ({done.identity.algorithm} {done.identity.digest[:16]}...)", soft_wrap=True)
    if done.content_bytes is not None:
        console.print(f"{plain(str(document['output']))}: {done.content_bytes} bytes", soft_wrap=True)


def tell_directory(
    arguments: argparse.Namespace, entries: Sequence[Entry], skipped: Sequence[tuple[str, str]], code: ExitCode
) -> None:
    """Give a directory's report."""
    counts = Counter(str(entry.result) for entry in entries)
    document = {
        "input": arguments.input,
        "output": arguments.input if arguments.output is None else arguments.output,
        "exit_code": int(code),
        "summary": dict(sorted(counts.items())),
        "files": [
            {"name": entry.name, "result": entry.result, "exit_code": int(entry.code), "error": entry.error}
            | ({} if entry.done is None else {"report": document_of(entry.done)})
            for entry in entries
        ],
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped],
    }
    if arguments.report is not None:
        arguments.report.write_text(terminal.json_text("rewrite", document))
    if arguments.json:
        terminal.print_json("rewrite", document, stderr=True)
        return
    console = terminal.console(stderr=True)
    if entries:
        made = table("Image", "Kind", "Read", "Changes", "Result")
        for entry in entries:
            done = entry.done
            made.add_row(
                plain(entry.name),
                "-" if done is None else done.container,
                "-" if done is None else size_of(done.bytes_in),
                "-" if done is None or done.report is None else str(len(done.report.plan.changes)),
                entry.result if entry.error is None else f"{entry.result}: {plain(entry.error)}",
            )
        print_table(console, made)
    for name, reason in skipped:
        console.print(f"skipped {plain(name)}: {reason}", soft_wrap=True)
    said = ", ".join(f"{count} {result}" for result, count in sorted(counts.items())) or "none"
    console.print(f"{plural(len(entries), 'image')}: {said}", soft_wrap=True)
