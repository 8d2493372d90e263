"""docs/reliability.md is what the results give, and the results are those of a whole campaign."""

from __future__ import annotations

from tests.faults import memory_campaign, page
from tests.faults.__main__ import main
from tests.faults.memory_try import Fault
from tests.faults.qemu_campaign import PROXIES, VERSIONS, cases, cells
from tests.faults.qemu_campaign import faults as real_faults
from tests.faults.qemu_wire import Measured
from tests.faults.tally import RESULTS, read
from tests.faults.verdict import worse


def test_the_page_is_what_the_results_give(tmp_path) -> None:
    written = tmp_path / "reliability.md"
    assert main(["report", "-o", str(written)]) == 0
    assert page.PAGE.read_text() == written.read_text(), "python -m tests.faults report"


def test_no_result_is_worse_than_without_proxyd() -> None:
    """Every byte in memory; of real QEMUs, what was seen once and is not explained is listed, and nothing else is."""
    assert worse(read(RESULTS / "memory.json")[0]) == []
    assert worse(read(RESULTS / "qemu.json")[0]) == (RESULTS / "open.txt").read_text().splitlines()


def test_every_byte_was_tried_in_memory() -> None:
    """The committed results are of a campaign without a stride."""
    rows, _ = read(RESULTS / "memory.json")
    assert {row.cell.fault for row in rows} == {fault.value for fault in Fault}
    assert sum(row.tries for row in rows) == 2 * sum(1 for _ in memory_campaign.cases())


def test_every_fault_was_tried_with_real_qemus() -> None:
    rows, _ = read(RESULTS / "qemu.json")
    for proxy in PROXIES:
        tried = {row.cell.fault for row in rows if row.cell.proxy == proxy}
        assert tried == {fault.value for fault in real_faults(proxy)} | {"nothing"}


def test_each_cell_with_real_qemus_was_tried() -> None:
    """Every phase of every fault, on every wire that it can strike, of every proxy."""
    lengths = {mode: Measured(1000, 1000 + 500 * (mode != "postcopy")) for mode in VERSIONS}
    wanted = {cell for case in cases(lengths) for cell in cells(case)}
    assert {row.cell for row in read(RESULTS / "qemu.json")[0]} == wanted
