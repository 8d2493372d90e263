"""A chosen part of the campaign with real QEMUs: what would lose or double a guest if proxyd were careless."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import qemu_campaign
from tests.faults.qemu_campaign import PROXY
from tests.faults.qemu_try import Case, Fault, Side
from tests.faults.qemu_wire import Landmark, Measured, Strike
from tests.faults.tally import Row
from tests.faults.verdict import THE_OTHER, worse

pytestmark = pytest.mark.qemu

PHASES = ("memory", "device state", "vmdesc", "all delivered, before SHUT", "after SHUT")


def is_chosen(case: Case) -> bool:
    """One byte a phase; the faults that come at once, and one of each that takes its time."""
    if case.mode != "precopy" or case.strike.count not in CHOSEN_COUNTS or case.phase not in PHASES:
        return False
    if case.two:
        return case.fault in {Fault.RESET, Fault.PROXY_TERMINATED} and not case.paused
    if case.proxy == "direct":
        return case.fault.value.startswith(("network: RST", "source: gone", "destination: gone", "network: stalls, RST"))
    slow = case.fault in qemu_campaign.SLOW
    return not slow or (case.phase == "device state" and not case.paused)
