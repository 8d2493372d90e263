"""A chosen part of the campaign in memory, and that it would find what it looks for."""

from __future__ import annotations

import dataclasses

import pytest

from tests.faults import memory_campaign
from tests.faults.memory_stream import fitting, sent
from tests.faults.memory_try import Case, Fault, Place, perform
from tests.faults.memory_wire import Strike
from tests.faults.tally import After, Cell, Row, Tally
from tests.faults.verdict import worse

STRIDE = 149
"""Every so many bytes, beside all borders; the whole campaign is ``python -m tests.faults run --memory``."""

RUNS_THERE = After(source=False, destination=True, wrong=False)
RUNS_HERE = After(source=True, destination=False, wrong=False)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return memory_campaign.run(STRIDE).rows()


def test_no_guest_is_lost_or_doubled_where_qemu_alone_keeps_it(rows: list[Row]) -> None:
    assert worse(rows) == []
    tried = {row.cell.fault for row in rows if row.cell.proxy == "proxyd"}
    assert tried == {fault.value for fault in Fault}


def test_no_state_is_ever_wrong(rows: list[Row]) -> None:
    assert not [row for row in rows if row.wrong]


def test_with_a_manager_no_guest_is_ever_doubled(rows: list[Row]) -> None:
    assert not [row for row in rows if row.cell.paused and row.doubled]


def test_proxyd_that_is_asked_to_end_keeps_every_guest_once(rows: list[Row]) -> None:
    ends = [row for row in rows if row.cell.fault in {Fault.PROXY_ABORTED, Fault.PROXY_CANCELLED}]
    assert ends
    assert not [row for row in ends if row.lost or row.doubled]


def test_before_the_commit_point_only_the_death_of_the_source_costs_the_guest(rows: list[Row]) -> None:
    """Whatever happens on the way in: the guest runs once, at its source."""
    early = [
        row
        for row in rows
        if row.cell.proxy == "proxyd"
        and row.cell.place == Place.SOURCE_SIDE
        and row.cell.phase in {"connected", "prologue", "memory", "device state", "vmdesc"}
        and row.cell.fault != Fault.SOURCE_GONE
    ]
    assert sum(row.tries for row in early) > 1000
    assert not [row for row in early if row.lost or row.doubled]


# That it would be found.


@pytest.mark.parametrize("proxy", memory_campaign.PROXIES)
def test_without_a_fault_the_guest_goes_on_at_the_destination(proxy: str) -> None:
    place = Place.ONLY if proxy == "direct" else Place.SOURCE_SIDE
    tried = perform(Case(proxy, Fault.RESET, place, Strike(10**9, forward=True)))
    assert not tried.struck
    assert tried.without_s == tried.with_s == RUNS_THERE


def test_a_proxy_that_resets_at_any_time_is_found() -> None:
    """The control of the campaign: two loops that are ended like that double guests, and QEMU alone does not."""
    tally = Tally()
    for strike in memory_campaign.strikes(fitting(), 149):
        case = Case("pipe", Fault.PROXY_ABORTED, Place.SOURCE_SIDE, strike)
        for cell, after in zip(memory_campaign.cells(case), (perform(case).without_s,), strict=False):
            tally.add(cell, after)
    found = worse(tally.rows(), "pipe")
    phases = ("vmdesc", "all delivered, before SHUT", "inside SHUT")
    assert [any(f", {phase}, " in line for line in found) for phase in phases] == [True] * 3
    assert all(any(f", {phase}, " in line for phase in phases) for line in found)


def test_a_stream_that_nobody_rewrites_stays_at_the_source() -> None:
    """The control of the rewrite: this destination refuses what the source sends."""
    assert sent().wire != fitting().wire
    case = Case("direct", Fault.RESET, Place.ONLY, Strike(10**9, forward=True))
    assert perform(case, sent()).without_s == RUNS_HERE


def test_a_wrong_state_is_found() -> None:
    case = Case("direct", Fault.RESET, Place.ONLY, Strike(10**9, forward=True))
    wire = bytearray(fitting().wire)
    wire[fitting().tail_at + 100] ^= 1
    assert perform(case, dataclasses.replace(fitting(), wire=bytes(wire))).without_s == After(
        source=False, destination=True, wrong=True
    )


def test_each_way_to_be_worse_is_named() -> None:
    cell = Cell("memory", "proxyd", "precopy", False, "network: RST", "memory", "into the proxy")
    alone = Cell("memory", "direct", "precopy", False, "network: RST", "memory", "")
    bad = Row(cell, 3, 1, 1, 1, 1, 1)
    fine = Row(alone, 3, 3, 0, 0, 0, 0)
    assert [line.rpartition(": ")[2] for line in worse([bad, fine])] == [
        "1 of 3 lost, and others none",
        "1 of 3 doubled, and others none",
        "1 of 3 wrong, and QEMU alone never in this mode",
    ]
    assert worse([bad, Row(alone, 3, 1, 1, 1, 1, 1)]) == []
