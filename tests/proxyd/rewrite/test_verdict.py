"""Verdicts are ordered from harmless to not known."""

from __future__ import annotations

from proxyd.rewrite.verdict import Verdict


def test_order() -> None:
    assert sorted(["unknown", "proven", "lossy", "neutral"], key=Verdict) == ["proven", "neutral", "lossy", "unknown"]
    assert Verdict.PROVEN < Verdict.NEUTRAL <= Verdict.NEUTRAL < Verdict.LOSSY
    assert Verdict.UNKNOWN > Verdict.LOSSY >= Verdict.LOSSY
    assert not Verdict.LOSSY < Verdict.PROVEN
    assert max(Verdict.PROVEN, Verdict.UNKNOWN, Verdict.NEUTRAL) is Verdict.UNKNOWN
