"""The closed set of outcomes."""

from __future__ import annotations

import re
from pathlib import Path

from proxyd.relay.outcome import Ending, Outcome


def test_outcomes_are_metric_labels() -> None:
    assert all(outcome.value == outcome.name.lower() for outcome in Outcome)


def test_the_operators_manual_explains_every_outcome() -> None:
    manual = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", manual.partition("### Two cases")[0], re.MULTILINE)
    assert sorted(documented) == sorted(Outcome)


def test_an_ending_is_a_value() -> None:
    assert Ending(Outcome.LIMIT, "x") == Ending(Outcome.LIMIT, "x")
