"""Who takes its guest back, and what a refusal says."""

from __future__ import annotations

import pytest

from proxyd.rewrite.plan import Outcome, Plan, Refusal
from proxyd.rewrite.refusal import RewriteRefused, refused_for, takes_guest_back
from proxyd.rewrite.report import RewriteReport
from proxyd.rewrite.verdict import Verdict


@pytest.mark.parametrize(
    ("machine", "proven"),
    [
        ("virt-10.2", True),
        ("virt-11.1", True),
        ("virt-10.1", False),
        ("virt-9.2", False),
        ("virt", False),
        (None, False),
    ],
)
def test_machine_types_that_only_newer_qemu_has(machine: str | None, proven: bool) -> None:
    assert takes_guest_back(machine) is proven


def test_a_refusal_names_the_first_register_and_counts_the_others() -> None:
    refusals = tuple(
        Refusal(
            vcpu=n, register=0x603000000013C103, value=5, destination_value=None, verdict=Verdict.UNKNOWN, reason="r"
        )
        for n in range(3)
    )
    plan = Plan(outcome=Outcome.REFUSED, changes=(), refusals=refusals, notices=(), vcpus=(), rewritten=())
    report = RewriteReport("virt-10.0", plan)
    error = refused_for(refusals, report)
    assert str(error) == f"{refusals[0]} (and 2 more)"
    assert (error.refusals, error.report) == (refusals, report)
    assert str(refused_for(refusals[:1], report)) == str(refusals[0])
    assert RewriteRefused("by itself").refusals == ()
