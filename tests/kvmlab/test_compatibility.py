"""What the measured matrix must show: docs/compatibility.md is what it says, and proxyd's word was kept in every cell.

The results are compressed JSON lines in tests/kvmlab/results, made by `python -m tests.kvmlab matrix --all`.
"""

from pathlib import Path

import pytest

from tests.kvmlab.judgement import mismatches
from tests.kvmlab.measured import measured
from tests.kvmlab.report import page
from tests.kvmlab.results import Result, refusal_of
from tests.kvmlab.selection import selected

CELLS = measured().cells
PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"

LOST_AT_THE_SOURCE = {"6.12": {"PMCNTENSET_EL0", "PMINTENSET_EL1"}}
"""What a guest that stays finds changed by its own kernel (docs/kvmlab.md)."""

NOT_IN_ITS_STREAM = {"6.1": {"CNTP_CVAL_EL0", "CNTP_CTL_EL0", "PMCR_EL0", "PIR_EL1", "PIRE0_EL1"}}
"""Kernels whose stream lacks a register, or has a value in it that only they show: the guest finds another one, and
proxyd says so. No rewriting brings them back."""

CHANGED_BY_QEMU = {"max": {"FPCR"}}
"""CPUs on which QEMU's load changes a register, whatever the kernel and without proxyd too; proxyd says so."""


def test_every_cell_of_the_whole_matrix_was_measured() -> None:
    assert set(CELLS) == {cell.key for cell in selected("all")}
    assert measured().broken == {}


def test_the_page_is_what_the_results_say() -> None:
    assert PAGE.read_text() == page(measured()), (
        "python -m tests.kvmlab report tests/kvmlab/results/*.jsonl.xz -o docs/compatibility.md"
    )


@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.key)
def test_prediction_and_reality_agree(cell: Result) -> None:
    assert list(mismatches(cell, measured())) == []


@pytest.mark.parametrize("cell", [cell for cell in CELLS.values() if cell.upwards], ids=lambda cell: cell.key)
def test_to_a_newer_kernel_each_guest_loads_and_nothing_is_lossy(cell: Result) -> None:
    assert cell.proxied.end == "loads"
    assert cell.proxied.runs_on == "destination"
    assert {touched.verdict for touched in cell.proxied.touched} <= {"proven", "neutral"}
    known = NOT_IN_ITS_STREAM.get(cell.source, set()) | CHANGED_BY_QEMU.get(cell.cpu, set())
    assert {each.register for each in cell.proxied.changed} <= known


@pytest.mark.parametrize("cell", [cell for cell in CELLS.values() if not cell.upwards], ids=lambda cell: cell.key)
def test_to_an_older_kernel_each_guest_loads_or_is_refused_by_name_and_stays(cell: Result) -> None:
    move = cell.proxied
    assert move.end in {"loads", "refused"}
    assert move.runs_on == {"loads": "destination", "refused": "source"}[move.end]
    if move.end == "refused":
        assert all(refusal_of(text).register for text in move.refusals)
        assert {each.register for each in move.noticed} <= LOST_AT_THE_SOURCE.get(cell.source, set())
    if not cell.allow:
        assert {touched.verdict for touched in move.touched} <= {"proven", "neutral"}


def test_only_the_results_that_are_shown_are_kept() -> None:
    size = sum(path.stat().st_size for path in (PAGE.parents[1] / "tests/kvmlab/results").iterdir())
    assert size < 300_000
