"""The scenarios, small enough for CI; and the page, which says what the results say."""

from __future__ import annotations

import json

import pytest

from tests.load import page
from tests.load.__main__ import PAGE, RESULTS, SCENARIOS, play
from tests.load.scenario import SMALL, Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.__name__ for scenario in SCENARIOS])
def test_under_load(scenario: Scenario) -> None:
    result = play(scenario, SMALL)
    assert not result.broken, "\n".join([*result.broken, json.dumps(result.figures)])


def test_the_page_is_of_the_results() -> None:
    results = json.loads(RESULTS.read_text())
    assert PAGE.read_text() == page.document(results)
    assert len(results["scenarios"]) == len(SCENARIOS)
    assert [one["broken"] for one in results["scenarios"]] == [[]] * len(SCENARIOS)
