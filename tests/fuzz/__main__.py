"""``python -m tests.fuzz run [--target NAME ...] [--inputs N] [--seconds S]``, ``report``, ``one TARGET SEED``."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz import campaign
from tests.fuzz.choices import SeedChoices
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="feed inputs of new seeds and record what came of them")
    run.add_argument("--target", action="append", choices=sorted(TARGETS), help="default: all")
    run.add_argument("--inputs", type=int, default=1_000_000)
    run.add_argument("--seconds", type=float, default=3600.0)
    run.add_argument("--jobs", type=int, help="processes; default: one for each processor")
    verbs.add_parser("report", help="print the table of docs/testing.md")
    one = verbs.add_parser("one", help="feed the input of one seed")
    one.add_argument("target", choices=sorted(TARGETS))
    one.add_argument("seed", type=int)
    given = parser.parse_args()
    match given.verb:
        case "run":
            return int(bool(campaign.run(given.target or list(TARGETS), given.inputs, given.seconds, jobs=given.jobs)))
        case "report":
            sys.stdout.write(campaign.page() + "\n")
        case _:
            sys.stdout.write(TARGETS[given.target](SeedChoices(given.seed)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
