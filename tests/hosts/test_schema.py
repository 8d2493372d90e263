"""The schema in docs/ is that of the code."""

from __future__ import annotations

import json

from tests import recorded
from tests.hosts.schema import PAGE, schema


def test_the_file_is_up_to_date() -> None:
    assert PAGE.read_text() == schema(), "python -m tests.hosts.schema brings it up to date"


def test_every_key_of_a_real_description_is_in_it() -> None:
    keys = json.loads(PAGE.read_text())["$defs"]["Document"]["properties"]
    assert set(keys) > set(json.loads(recorded.host_json("7.3", "max")))
