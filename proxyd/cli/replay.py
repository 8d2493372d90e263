"""Do a recorded migration's rewrite again, from its flight recording, and compare.

RECORDING is a file of the flight recorder ([recorder] in the configuration). With the same version of proxyd and of its
knowledge base the same bytes come out; where they do not, the first difference is named, and the exit code is 3.

With --destination, --profile or --allow it is a question instead: what would become of this guest elsewhere? Nothing is
compared then.

A directory instead of RECORDING: what is in it, a line each.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxyd.cli.destination_arguments import add_destination_arguments
from proxyd.cli.exit_codes import ExitCode, InputError, RefusedError

if TYPE_CHECKING:
    from proxyd.rewrite.recording import Recorded, Recording, Replayed

JSON_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``replay RECORDING|DIRECTORY [--destination HOST.json] [--profile FILE] [--allow REGISTER] [--json]``."""
    parser.add_argument("recording", metavar="RECORDING", type=Path, help="a recording, or a directory of them")
    add_destination_arguments(parser)
    parser.add_argument("--json", action="store_true", help="the result as a JSON document")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Replay one recording, or list a directory."""
    if arguments.recording.is_dir():
        return _list(arguments)
    recorded = _read(arguments.recording)
    asked = bool(arguments.destination or arguments.profile or arguments.allow)
    replayed = _replay(recorded, arguments, asked=asked)
    difference = None if asked else _difference(recorded, replayed)
    if arguments.json:
        _write_json(recorded.facts, replayed, difference, asked=asked)
    else:
        _write_text(recorded.facts, replayed, asked=asked)
    if difference is not None:
        raise RefusedError(difference)
    if asked and replayed.error is not None:
        raise RefusedError(replayed.error)
    return ExitCode.DONE


def _read(path: Path) -> Recorded:
    from proxyd.rewrite.recording import Recorded, RecordingError

    try:
        return Recorded.parse(path.read_bytes())
    except RecordingError as error:
        raise InputError(f"{path}: {error}") from error


def _replay(recorded: Recorded, arguments: argparse.Namespace, *, asked: bool) -> Replayed:
    from proxyd.cli.subject import load_destination, register_ids
    from proxyd.rewrite.recording import destination_of, replay

    named = arguments.destination or arguments.profile
    try:
        destination = (
            load_destination(arguments.destination, arguments.profile) if named else destination_of(recorded.facts)
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    allow = register_ids(arguments.allow if asked else recorded.facts.allow)
    return replay(recorded, destination, allow)


def _difference(recorded: Recorded, replayed: Replayed) -> str | None:
    """What is not as it was, in one sentence."""
    from proxyd.rewrite.recording import was_forced

    if replayed.after == recorded.after:
        return None
    facts = recorded.facts
    if not recorded.after:
        if facts.denied:
            return None  # the firewall is not what is replayed
        return f"nothing was released then ({facts.outcome}: {facts.reason}), and it would be now"
    if not replayed.after:
        if was_forced(recorded):
            return None
        return f"it was released then, and is refused now: {replayed.error}"
    pairs = zip(recorded.after, replayed.after, strict=False)
    first = next(
        (at for at, (was, now) in enumerate(pairs) if was != now), min(len(recorded.after), len(replayed.after))
    )
    return f"byte {first:#x} of what was released differs ({len(recorded.after)} bytes then, {len(replayed.after)} now)"


def _write_text(facts: Recording, replayed: Replayed, *, asked: bool) -> None:
    from proxyd.cli.terminal import plain
    from proxyd.rewrite.knowledge import builtin_digest

    lines = [
        f"migration {facts.migration} of route {facts.route} from {facts.source}, {facts.time}, proxyd {facts.proxyd}",
        f"then: {facts.outcome}" + (f": {facts.reason}" if facts.reason else ""),
    ]
    if facts.denied:
        lines.append("the route's firewall refused it; its rules are not in a recording, and are not applied now")
    if facts.knowledge != builtin_digest():
        lines.append("the knowledge base is another one than then")
    changes = () if replayed.plan is None else replayed.plan.changes
    lines += [str(change) for change in changes]
    if replayed.error is not None:
        lines.append(f"now: {replayed.error}")
    elif not asked:
        lines.append(f"now: {len(replayed.after)} bytes")
    sys.stdout.write("".join(f"{plain(line)}\n" for line in lines))


def _write_json(facts: Recording, replayed: Replayed, difference: str | None, *, asked: bool) -> None:
    from proxyd.rewrite.recording import report_of

    document: dict[str, Any] = {
        "version": JSON_VERSION,
        "migration": facts.migration,
        "time": facts.time,
        "outcome": facts.outcome,
        "same": None if asked else difference is None,
        "difference": difference,
        "error": replayed.error,
        "report": report_of(facts.machine, replayed.plan),
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _list(arguments: argparse.Namespace) -> ExitCode:
    from proxyd.cli.terminal import plain
    from proxyd.rewrite.recording import SUFFIX

    found = [(path, _read(path).facts) for path in sorted(arguments.recording.glob(f"*{SUFFIX}"))]
    if arguments.json:
        entries = [
            {
                "file": str(path),
                "migration": one.migration,
                "time": one.time,
                "route": one.route,
                "outcome": one.outcome,
            }
            for path, one in found
        ]
        sys.stdout.write(json.dumps({"version": JSON_VERSION, "recordings": entries}, indent=2) + "\n")
    else:
        for path, one in found:
            sys.stdout.write(plain(f"{one.time}  {one.migration}  {one.route}  {one.outcome}  {path.name}") + "\n")
    return ExitCode.DONE
