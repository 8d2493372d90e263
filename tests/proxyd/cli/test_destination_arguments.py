"""``--destination``, ``--profile`` and ``--allow``."""

from __future__ import annotations

import argparse

from proxyd.cli.destination_arguments import add_destination_arguments


def test_what_they_are_called_and_what_they_are_without() -> None:
    parser = argparse.ArgumentParser()
    add_destination_arguments(parser)
    assert vars(parser.parse_args([])) == {"destination": None, "profile": None, "allow": []}
    given = parser.parse_args(["--destination", "h", "--profile", "p", "--allow", "A", "--allow", "B"])
    assert vars(given) == {"destination": "h", "profile": "p", "allow": ["A", "B"]}
