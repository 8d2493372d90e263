"""A chosen part of the campaign with real QEMUs: one byte of each phase that matters, faults that come at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.faults import qemu_campaign
from tests.faults.qemu_campaign import points
from tests.faults.qemu_try import MANAGED, Case, Fault
from tests.faults.qemu_wire import Landmark, Measured, Strike
from tests.faults.tally import Row
from tests.faults.verdict import worse

pytestmark = pytest.mark.qemu

PHASES = ("memory", "device state", "vmdesc", "all delivered, before SHUT")
ALONE = (Fault.RESET, Fault.FIN, Fault.SOURCE_KILLED, Fault.DESTINATION_KILLED)
KEPT_WITHOUT_EXCUSE = (Fault.PROXY_TERMINATED, Fault.PROXY_RELOADED, *MANAGED)
CHOSEN = {
    "direct": ALONE,
    "haproxy": (Fault.PROXY_KILLED,),
    "proxyd": (*ALONE, Fault.PROXY_KILLED, *KEPT_WITHOUT_EXCUSE),
}


def chosen() -> Callable[[Case], bool]:
    """Say of each case whether it is the first one of its phase; remembers which there were."""
    seen = set()

    def is_chosen(case: Case) -> bool:
        key = (case.proxy, case.two, case.paused, case.fault, case.phase, case.side)
        if case.mode != "precopy" or case.phase not in PHASES or case.fault not in CHOSEN.get(case.proxy, ()):
            return False
        if key in seen or (case.two and (case.paused or case.fault is not Fault.RESET)):
            return False
        if case.phase == "device state" and not case.strike.count:
            return False
        seen.add(key)
        return True

    return is_chosen


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    kept = tmp_path_factory.mktemp("faults") / "kept.jsonl"
    said: list[str] = []
    tally, failed = qemu_campaign.run(kept, 3, only=chosen(), progress=said.append)
    assert not failed, said
    assert len(kept.read_text().splitlines()) > 100
    return tally.rows()


def test_no_guest_is_lost_or_doubled_where_it_is_kept_without_proxyd(rows: list[Row]) -> None:
    assert worse(rows) == []


def test_no_state_is_wrong(rows: list[Row]) -> None:
    assert not [row for row in rows if row.wrong]


def test_proxyd_that_ends_or_is_restarted_by_its_manager_keeps_every_guest_once(rows: list[Row]) -> None:
    ends = [row for row in rows if row.cell.proxy == "proxyd" and row.cell.fault in KEPT_WITHOUT_EXCUSE]
    assert {row.cell.fault for row in ends} == set(KEPT_WITHOUT_EXCUSE)
    assert not [row for row in ends if row.source + row.destination != row.tries]


def test_the_faults_do_strike(rows: list[Row]) -> None:
    """The control: without -S, QEMU alone doubles a guest whose SHUT is lost, and only then goes on at the source."""
    doubled = _phases(row for row in rows if row.cell.proxy == "direct" and row.doubled)
    assert "all delivered, before SHUT" in doubled
    moved = _phases(row for row in rows if row.cell.fault == Fault.PROXY_CRASHED and row.destination)
    stayed = _phases(row for row in rows if row.cell.fault == Fault.PROXY_CRASHED and row.source)
    assert "all delivered, before SHUT" in moved
    assert "memory" in stayed


def _phases(rows: Iterable[Row]) -> set[str]:
    return {row.cell.phase for row in rows}


# What it is made of.


def test_the_points_of_a_migration() -> None:
    found = list(points(Measured(100, 300), fine=True))
    assert [point.phase for point in found if point.strike == Strike(Landmark.DEVICES, 100)] == ["device state"]
    assert max(point.strike.count for point in found if point.phase == "vmdesc") == 299
    postcopy = list(points(Measured(100, 100), fine=False))
    assert [point.strike.count for point in postcopy if point.phase == "package"] == [0, 49, 99]
    assert not [point for point in postcopy if point.phase == "vmdesc"]


def test_every_case_has_a_name_of_its_own() -> None:
    lengths = {mode: Measured(1000, 1000 + 500 * (mode != "postcopy")) for mode in qemu_campaign.VERSIONS}
    cases = list(qemu_campaign.cases(lengths))
    assert len(cases) > 3000
    names = {qemu_campaign.name_of(case) for case in cases}
    assert len(names) == len(cases)
    assert json.loads(min(names))


def test_results_of_an_interrupted_run_are_kept(tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    cell = {"bench": "qemu", "proxy": "direct", "mode": "precopy", "paused": False, "fault": "f", "phase": "p"}
    entry = {"case": "done", "cell": cell | {"place": ""}}
    kept.write_text(json.dumps(entry | {"after": {"source": True, "destination": False, "wrong": False}}) + "\n")
    (row,) = qemu_campaign.counted(kept).rows()
    assert (row.tries, row.source, row.destination) == (1, 1, 0)
