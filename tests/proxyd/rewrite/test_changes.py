"""The sentences of changes, refusals and notices."""

from __future__ import annotations

from formats.arm64.register_id import id_of
from proxyd.rewrite.changes import Action, Change, Notice, Refusal
from proxyd.rewrite.verdict import Verdict

TCR2 = id_of("TCR2_EL1")


def test_changes() -> None:
    removed = Change(1, Action.REMOVE, TCR2, None, 5, None, Verdict.PROVEN, "because", "knowledge")
    assert str(removed) == "vcpu 1: TCR2_EL1 (0x603000000013c103) removed (was 0x5), proven: because"
    added = Change(0, Action.ADD, TCR2, None, None, 5, Verdict.NEUTRAL, "because", "knowledge")
    assert str(added) == "vcpu 0: TCR2_EL1 (0x603000000013c103) added as 0x5, neutral: because"
    set_ = Change(0, Action.SET, TCR2, "PIE", 1, 0, Verdict.LOSSY, "because", "knowledge")
    assert str(set_) == "vcpu 0: TCR2_EL1.PIE (0x603000000013c103) 0x1 -> 0x0, lossy: because"


def test_refusals() -> None:
    whole = Refusal(0, None, None, None, Verdict.UNKNOWN, "because")
    assert str(whole) == "vcpu 0: because"
    field = Refusal(0, TCR2, 1, 0, Verdict.LOSSY, "because", "PIE")
    assert str(field) == (
        "vcpu 0: TCR2_EL1 (0x603000000013c103) field PIE = 0x1, 0x0 at the destination: lossy: because"
    )


def test_notices() -> None:
    assert str(Notice(0, None, "text")) == "text"
    assert str(Notice(2, TCR2, "text")) == "vcpu 2: TCR2_EL1 (0x603000000013c103): text"
