"""python -m tests.load: see the package."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import trio

from tests.bench import machine
from tests.load import connections, floods, operators, page
from tests.load.scenario import SMALL, WHOLE, Result, Scenario

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[2] / "docs" / "load.md"

SCENARIOS: tuple[Scenario, ...] = (
    connections.at_once,
    connections.silent,
    connections.silent_everywhere,
    connections.silent_here,
    connections.few_descriptors,
    connections.loris,
    floods.endless,
    floods.stalled,
    operators.control,
    operators.metrics,
    operators.huge_requests,
    operators.stuck_log,
    operators.dead_log,
    operators.dead_resolver,
)


def play(scenario: Scenario, scale: Any) -> Result:
    """One scenario, from the beginning to the end of its daemon."""
    result: Result = trio.run(scenario, scale)
    return result


def _replaced(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of before, with those that were played again in their places."""
    again = {one["name"]: one for one in now}
    return [again.get(one["name"], one) for one in before]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description="Put proxyd under load.")
    parser.add_argument("what", choices=["run", "page"], help="play the scenarios, or write the page anew")
    parser.add_argument("--only", metavar="NAME", help="scenarios whose function's name contains this")
    parser.add_argument("--small", action="store_true", help="as CI plays them")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} and docs/{PAGE.name}")
    given = parser.parse_args(arguments)
    if given.write and given.small:
        parser.error("--write is for figures at full size")
    if given.what == "page":
        PAGE.write_text(page.document(json.loads(RESULTS.read_text())))
        return 0
    found = []
    for scenario in SCENARIOS:
        if given.only is None or given.only in scenario.__name__:
            print(f"playing: {scenario.__name__}", file=sys.stderr)
            result = play(scenario, SMALL if given.small else WHOLE)
            print(result.name, json.dumps(result.figures), *result.broken, sep="\n    ")
            found.append(result)
    if given.write:
        scenarios = [
            {"name": one.name, "says": one.says, "figures": one.figures, "broken": one.broken} for one in found
        ]
        if given.only is not None:
            scenarios = _replaced(json.loads(RESULTS.read_text())["scenarios"], scenarios)
        results = {
            "version": 1,
            "date": datetime.now().astimezone().date().isoformat(),
            "machine": machine.description(),
            "scenarios": scenarios,
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        PAGE.write_text(page.document(results))
    return int(any(one.broken for one in found))


if __name__ == "__main__":
    sys.exit(main())
