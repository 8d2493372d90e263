"""A matrix goes on where it was broken off, and does not pass for want of pairs."""

from pathlib import Path

import pytest
import trio

from tests.kvmlab.catalogue import LabError
from tests.kvmlab.guest import GuestSpec
from tests.kvmlab.lab import Images, Lab
from tests.kvmlab.matrix import Cell, finished, parse_pair, run_matrix
from tests.kvmlab.selection import every_pair


def test_errors_are_tried_again(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text('{"key": "a"}\n{"key": "b", "error": "no boot"}\n')
    assert finished(results) == {"a"}


async def test_no_pair_is_an_error(tmp_path: Path, nursery: trio.Nursery) -> None:
    lab = Lab(Images((), {}, b""), nursery, lambda _: None)
    with pytest.raises(LabError, match="no pair"):
        await run_matrix(lab, [], tmp_path / "results.jsonl", tmp_path)


async def test_finished_pairs_are_passed_over(tmp_path: Path, nursery: trio.Nursery) -> None:
    lab = Lab(Images((), {}, b""), nursery, lambda _: None)
    cell = Cell("6.12", "6.18", "neoverse-n1", GuestSpec("10.0"))
    results = tmp_path / "results.jsonl"
    results.write_text(f'{{"key": "{cell.key}"}}\n')
    assert await run_matrix(lab, [cell], results, tmp_path) == 0  # with this lab, booting would raise KeyError


@pytest.mark.parametrize("text", ["6.12", "6.12:", ":6.18"])
def test_a_pair_is_two_kernels(text: str) -> None:
    with pytest.raises(LabError, match="expected two kernels"):
        parse_pair(text)


async def test_cells_that_run_together_take_different_hosts(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = ["6.12", "6.16", "6.18", "7.3"]
    cells = [Cell(*pair, "neoverse-n1", GuestSpec("10.0")) for pair in every_pair(kernels)]
    running: list[Cell] = []
    most = 0

    async def fill(_: object, cell: Cell, row: dict[str, object]) -> None:
        nonlocal most
        running.append(cell)
        most = max(most, len(running))
        taken = [kernel for each in running for kernel in (each.source, each.destination)]
        assert len(taken) == len(set(taken))
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        running.remove(cell)
        if cell.key == cells[0].key:
            raise LabError("no boot")

    monkeypatch.setattr("tests.kvmlab.matrix._Run._fill", fill)
    results = tmp_path / "results.jsonl"
    lab = Lab(Images((), {}, b""), nursery, lambda _: None)
    assert await run_matrix(lab, cells, results, tmp_path, jobs=3) == 1
    assert most == 2
    assert finished(results) == {cell.key for cell in cells[1:]}
    # The one that broke off is tried again, and nothing else.
    assert await run_matrix(lab, cells, results, tmp_path, jobs=3) == 1
    assert len(results.read_text().splitlines()) == len(cells) + 1
