"""Descriptions that are true, old, or of another host."""

from __future__ import annotations

import pytest

from formats.arm64.register_id import id_of
from proxyd.rewrite.freshness import StaleDescription, check_freshness
from proxyd.rewrite.host import HostDescription
from tests import recorded

HOST = HostDescription.parse(recorded.host_json("7.3", "neoverse-n1"), "host")
KERNEL = HOST.kernel or ""
FEATURES = ("psci", "pmu")


def check(kernel: str = KERNEL, remove: tuple[str, ...] = (), **put: int) -> tuple[str, ...]:
    now = HOST.registers.edited(
        remove=[id_of(name) for name in remove], put={id_of(name): value for name, value in put.items()}
    )
    return check_freshness(HOST, kernel, FEATURES, now)


def test_the_same_host() -> None:
    assert check() == ()


def test_values_that_say_nothing_of_the_host() -> None:
    assert check(TIMER_CNT=5, TPIDR_EL0=7, SCTLR_EL1=1, PMCCNTR_EL0=9) == ()


def test_another_kernel_with_the_same_registers_is_worth_a_warning() -> None:
    (warning,) = check("7.3.99")
    assert "and it has Linux 7.3.99: its registers are the same" in warning


@pytest.mark.parametrize(
    ("remove", "put", "text"),
    [
        (("PMMIR_EL1",), {}, "PMMIR_EL1 (0x603000000013c4f6) is described and not there"),
        ((), {"TCR2_EL1": 0}, "TCR2_EL1 (0x603000000013c103) is there and not described"),
        ((), {"FW_PSCI_VERSION": 0x10001}, "is described as 0x10003 and is 0x10001"),
        (
            (),
            {"ID_AA64ISAR0_EL1": 0},
            "ID_AA64ISAR0_EL1 (0x603000000013c030) is described as 0x100010211120 and is 0x0",
        ),
        ((), {"MIDR_EL1": 1}, "MIDR_EL1 (0x603000000013c000) is described as"),
        ((), {"FW_STD_BMAP": 3}, "FW_STD_BMAP"),
    ],
)
def test_what_makes_it_stale(remove: tuple[str, ...], put: dict[str, int], text: str) -> None:
    with pytest.raises(StaleDescription) as stale:
        check("7.4.1", remove, **put)
    assert text in str(stale.value)
    assert "which has Linux 7.4.1 and psci, pmu: " in str(stale.value)
    assert str(stale.value).endswith("(describe it anew: proxyd probe)")


def test_many_differences_are_counted() -> None:
    gone = ("TPIDR_EL0", "TPIDR_EL1", "TPIDRRO_EL0", "VBAR_EL1", "MAIR_EL1", "AMAIR_EL1", "TCR_EL1")
    with pytest.raises(StaleDescription, match="and 2 more"):
        check(remove=gone)


def test_a_description_without_a_kernel() -> None:
    nameless = HostDescription("h", HOST.registers)
    assert check_freshness(nameless, "1.2", FEATURES, HOST.registers) == ()
    with pytest.raises(
        StaleDescription, match="the description of h is not true of the destination, which has Linux 1"
    ):
        check_freshness(nameless, "1.2", FEATURES, {})
