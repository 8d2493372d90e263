"""Every way in which a cell can differ from what was said of it is found. The cells here are bent measured ones."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.kvmlab.judgement import mismatches, plan_of, shows, unnamed
from tests.kvmlab.measured import measured
from tests.kvmlab.results import Noticed, Result, Touched

GUEST = "neoverse-n1 10.0 1 plain checker"
LOADED = f"6.12:7.3 {GUEST}"
REFUSED = f"7.3:6.12 {GUEST}"
AS_IT_IS = f"6.16:7.2 {GUEST}"


def cell(key: str) -> Result:
    return measured().cells[key]


def bent(key: str, **changes: object) -> Result:
    return replace(cell(key), proxied=replace(cell(key).proxied, **changes))  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize("key", [LOADED, REFUSED, AS_IT_IS])
def test_a_cell_as_it_was_measured_has_none(key: str) -> None:
    assert list(mismatches(cell(key), measured())) == []


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda: bent(LOADED, end="fails", runs_on="source"), "predicted loads through proxyd, and it fails"),
        (lambda: bent(REFUSED, end="loads", runs_on="destination"), "predicted refused through proxyd, and it loads"),
        (
            lambda: bent(REFUSED, refusals=("vcpu 0: CTR_EL0",)),
            r"'FW_PSCI_VERSION'\] that were not, found \['vcpu 0: CTR_EL0'\]",
        ),
        (lambda: bent(LOADED, touched=()), r"predicted changes \['vcpu 0: remove PIRE0_EL1 \(proven\)'"),
        (lambda: bent(LOADED, runs_on=None), "loaded through proxyd, and the guest does not count on"),
        (lambda: bent(REFUSED, runs_on=None), "does not count on at its source"),
        (lambda: bent(LOADED, changed=(Noticed(0, "FPCR", "0x0", "0x7"),)), "does not name FPCR 0x0 -> 0x7"),
        (lambda: bent(LOADED, identity=(Noticed(0, "CTR_EL0", "0x1", "0x2"),)), "does not name CTR_EL0 0x1 -> 0x2"),
    ],
)
def test_each_difference_is_told(result: Callable[[], Result], said: str) -> None:
    found = list(mismatches(result(), measured()))
    assert any(re.search(said, text) for text in found), found


def test_what_the_log_or_the_plan_names_is_named() -> None:
    found = (
        Noticed(0, "PMMIR_EL1", "0x0", "0x1"),  # a notice of the plan
        Noticed(0, "TCR2_EL1", "0x0", "0x1"),  # a change
        Noticed(0, "CNTP_CTL_EL0", "0x2", "0x4"),  # travels under another name
        Noticed(0, "CCSIDR_EL1", "0x2", "0x4"),  # one name for several that travel
    )
    log = (Touched(0, "set", "DEMUX_CCSIDR[0]", "0x2", "0x4", "neutral"),)
    result = bent(LOADED, changed=found, touched=log, told=("PTIMER_CTL",))
    assert unnamed(result, plan_of(result, measured())) == ()


def test_a_guest_that_stayed_has_nothing_unnamed() -> None:
    result = bent(REFUSED, changed=(Noticed(0, "FPCR", "0x0", "0x7"),))
    assert unnamed(result, plan_of(result, measured())) == ()


@pytest.mark.parametrize(
    ("key", "what"),
    [
        (LOADED, "directly: cpreg_vmstate_array_len"),
        (LOADED, "remove TCR2_EL1"),
        (REFUSED, "refuse FW_PSCI_VERSION"),
        (AS_IT_IS, "directly loads"),
        (AS_IT_IS, "loads as it is"),
    ],
)
def test_what_a_cell_shows(key: str, what: str) -> None:
    assert shows(cell(key), what)
    assert not any(shows(cell(other), what) for other in {LOADED, REFUSED, AS_IT_IS} - {key})
