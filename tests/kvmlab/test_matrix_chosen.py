"""The chosen part of the matrix, live: each kind of change that proxyd makes, on both QEMUs.

Each cell must be as proxyd says today, show what matrix.toml says it shows, and end as it did when the whole matrix was
measured.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.kvmlab.judgement import mismatches, shows
from tests.kvmlab.lab import open_lab, print_progress, set_up
from tests.kvmlab.matrix import Cell, run_matrix
from tests.kvmlab.measured import measured
from tests.kvmlab.results import Results, read_results
from tests.kvmlab.selection import selected

pytestmark = pytest.mark.kvmlab

CHOSEN = selected("chosen")
SECONDS = 900
"""For everything after the downloads; measured: docs/kvmlab.md."""


async def _run(results: Path, progress: Callable[[str], None]) -> None:
    kernels = [kernel for cell in CHOSEN for kernel in (cell.source, cell.destination)]
    images = set_up(kernels, progress, inner=list(dict.fromkeys(cell.guest.qemu for cell in CHOSEN)))
    directory = results.parent / "proxyd"
    directory.mkdir()
    with trio.fail_after(SECONDS):
        async with open_lab(images, progress) as lab:
            await run_matrix(lab, CHOSEN, results, directory, jobs=2)


@pytest.fixture(scope="module")
def live(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Run the chosen cells once for all tests here, saying on the terminal what is done."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def progress(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print_progress(text)

    results = tmp_path_factory.mktemp("chosen") / "results.jsonl"
    trio.run(_run, results, progress)
    return read_results([results])


def test_every_chosen_cell_came_to_an_end(live: Results) -> None:
    assert live.broken == {}
    assert set(live.cells) == {cell.key for cell in CHOSEN}


@pytest.mark.parametrize("cell", CHOSEN, ids=lambda cell: cell.key)
def test_the_cell_shows_its_kind_of_change(cell: Cell, live: Results) -> None:
    missing = [what for what in CHOSEN[cell] if not shows(live.cells[cell.key], what)]
    assert missing == [], live.cells[cell.key]


@pytest.mark.parametrize("cell", CHOSEN, ids=lambda cell: cell.key)
def test_the_cell_is_as_proxyd_says(cell: Cell, live: Results) -> None:
    result = live.cells[cell.key]
    assert list(mismatches(result, live)) == []


@pytest.mark.parametrize("cell", CHOSEN, ids=lambda cell: cell.key)
def test_the_cell_is_as_it_was_measured(cell: Cell, live: Results) -> None:
    now, then = live.cells[cell.key], measured().cells[cell.key]
    assert (now.direct.end, now.proxied.end) == (then.direct.end, then.proxied.end)
    assert now.proxied.runs_on == then.proxied.runs_on
