"""Hostile input: a share of the campaign, bytes that hypothesis shrinks, the corpus, and the recorded campaign."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz import campaign
from tests.fuzz.choices import ByteChoices, SeedChoices
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"


def inputs_of(name: str) -> list[Path]:
    return sorted((CORPUS / name).glob("*"))


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    """Of the campaign's seeds, those that are far behind what was recorded: they were never fed before."""
    first = struct.unpack(">I", name.encode().ljust(4, b"\0")[:4])[0] << 8
    _, result = campaign.take((name, first, 1500 if name in {"parser", "rewriter"} else 500))
    assert result.findings == []
    assert len(result.outcomes) > 1, "it has seen one outcome only, so it tries nothing"


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    """What coverage guided the fuzzer to, and every input that once was a finding."""
    found = inputs_of(name)
    assert found, f"no corpus for {name}"
    for path in found:
        assert TARGETS[name](ByteChoices(path.read_bytes())), path


@pytest.mark.parametrize("name", TARGETS)
def test_bytes(name: str) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=400))
    @example(b"")
    def feed(data: bytes) -> None:
        assert TARGETS[name](ByteChoices(data))

    feed()


def test_what_the_campaign_would_find_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that breaks its property is a finding with its seed, and the run says so."""

    def breaks(choices: SeedChoices) -> str:
        assert choices.below(100) != 7, "a property"
        return "whole"

    monkeypatch.setitem(TARGETS, "broken", breaks)  # type: ignore[arg-type]
    _, result = campaign.take(("broken", 0, 500))
    assert result.findings
    assert result.inputs == 500
    assert result.outcomes["FINDING"] == len(result.findings)
    seed = result.findings[0]["seed"]
    with pytest.raises(AssertionError, match="a property"):
        breaks(SeedChoices(seed))


def test_the_recorded_campaign() -> None:
    """A million streams, none of them a finding, with the generator that is in the tree; and the page says the same."""
    document = json.loads(campaign.RESULTS.read_text())
    targets = document["targets"]
    assert targets.keys() == TARGETS.keys()
    assert sum(targets[name]["inputs"] for name in ("parser", "rewriter")) >= 1_000_000
    assert not any(one["findings"] for one in targets.values())
    assert document["generator"] == campaign.generator(), "the generator has changed: python -m tests.fuzz run"
    assert campaign.page() in DOCUMENT.read_text()
