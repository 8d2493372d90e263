"""python -m tests.bench: see the package."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench import machine, memory, page, relay, tail, tls, walk

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure what proxyd costs.")
    parser.add_argument("what", choices=["walk", "relay", "tls", "memory", "tail", "all"])
    parser.add_argument("--json", action="store_true", help="the figures as JSON, one object")
    parser.add_argument("--rounds", type=int, default=7, help="how often each figure is taken (default: %(default)s)")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of a relayed stream (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"with all: write docs/{PAGE.name}")
    given = parser.parse_args(arguments)
    if given.write and given.what != "all":
        parser.error("--write needs all the figures")
    measures = {
        "walk": lambda: walk.run(given.rounds),
        "relay": lambda: relay.run(given.rounds, round(given.gigabytes * 1e9)),
        "tls": lambda: tls.run(given.rounds, round(given.gigabytes * 1e9)),
        "memory": lambda: memory.run(4_000_000_000),
        "tail": lambda: tail.run(given.rounds),
    }
    results: dict[str, Any] = {
        "version": 1,
        "date": datetime.now().astimezone().date().isoformat(),
        "machine": machine.description(),
        "rounds": given.rounds,
        "gigabytes": given.gigabytes,
    }
    try:
        for name, measure in measures.items():
            if given.what in {name, "all"}:
                print(f"measuring: {name}", file=sys.stderr)
                results[name] = measure()
    except machine.Missing as error:
        print(f"bench: {error}", file=sys.stderr)
        return 4
    print(json.dumps(results, indent=2) if given.json else page.text(results))
    if given.write:
        PAGE.write_text(page.document(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
