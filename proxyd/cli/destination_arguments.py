"""``--destination``, ``--profile`` and ``--allow``, which plan and rewrite share."""

from __future__ import annotations

import argparse


def add_destination_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument(
        "--destination", metavar="HOST.json", help="the destination's host description (see 'proxyd probe')"
    )
    parser.add_argument("--profile", metavar="FILE", help="a profile written by hand; may go with --destination")
    parser.add_argument(
        "--allow",
        metavar="REGISTER",
        action="append",
        default=[],
        help="apply a lossy change to this register (name or id); may be given several times",
    )
