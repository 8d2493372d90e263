"""What two hosts' other traits mean for guests."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.host_traits import MIDR, Severity, Statement, Way, traits

HOST = HostDescription(
    "h",
    CpregList({MIDR: 1}),
    features=("psci", "pmu", "sve"),
    gic=("v3", "its"),
    counter_hz=25_000_000,
    midrs=(0x413FD0C1,),
    sve_vector_bits=(128, 256),
    capabilities={"ARM_VM_IPA_SIZE": 48, "MAX_VCPUS": 512, "PTP_KVM": 1, "COUNTER_OFFSET": 1, "ARM_SVE": 1},
)


def said(a: HostDescription = HOST, **other: Any) -> list[Statement]:
    return list(traits(a, replace(HOST, **other)))


def test_hosts_that_are_alike_leave_nothing_to_say() -> None:
    assert said() == []


def test_another_counter_frequency_breaks_guests_in_both_directions() -> None:
    there, back = said(counter_hz=62_500_000)
    assert (there.way, there.severity, there.subject) == (Way.A_TO_B, Severity.BREAKS, "counter_hz")
    assert there.text.startswith(
        "guest time runs 2.5 times as fast on B: the counter has 25000000 Hz on A and 62500000"
    )
    assert there.text.endswith("nothing can mend that")
    assert back.way is Way.B_TO_A
    assert back.text.startswith("guest time runs 0.4 times as fast on A: the counter has 62500000 Hz on B")


def test_a_frequency_within_what_the_measurement_is_good_for() -> None:
    (one,) = said(counter_hz=25_001_000)
    assert (one.way, one.severity) == (Way.BOTH, Severity.CARE)
    assert "may be one frequency" in one.text


def test_a_feature_that_only_one_has() -> None:
    there, back = said(features=("psci", "pmu"), sve_vector_bits=None, missing_features={"sve": "KVM has no ARM_SVE"})
    assert (there.way, there.severity) == (Way.A_TO_B, Severity.REFUSED)
    assert there.text == (
        "guests with sve cannot be started on B: KVM has no ARM_SVE. Those that are to move must be started without it "
        "on A (-cpu host,sve=off)"
    )
    assert (back.way, back.severity) == (Way.B_TO_A, Severity.CARE)
    assert back.text.endswith("QEMU there must be started with -cpu host,sve=off")


def test_the_list_shows_features_that_no_probe_has_told() -> None:
    there, back = said(HostDescription("b", CpregList({MIDR: 1, id_of("PMCR_EL0"): 0})), features=None)[:2]
    assert there.text.startswith("guests with pmu cannot be started on B: its description was made without")
    assert back.text.startswith("A has pmu, which guests from B do not have")


def test_a_feature_that_nobody_asked_for() -> None:
    there, _ = said(features=("psci", "sve"))
    assert "'proxyd probe --features' asks for more" in there.text


def test_another_cpu() -> None:
    there, back = said(midrs=(0x411FD402,))
    assert there.severity is back.severity is Severity.REFUSED
    assert there.text.startswith("guests on CPUs with MIDR_EL1 0x413fd0c1 are refused: B has 0x411fd402")
    assert there.registers == (MIDR,)


def test_two_kinds_of_cpu_in_one_host() -> None:
    refused, care = said(midrs=(0x411FD402, 0x413FD0C1))
    assert (refused.way, refused.severity) == (Way.B_TO_A, Severity.REFUSED)
    assert "MIDR_EL1 0x411fd402 are refused" in refused.text
    assert care.text.startswith("B has 2 kinds of CPU (0x411fd402, 0x413fd0c1)")


@pytest.mark.parametrize(
    ("lengths", "severity", "end"),
    [
        ((128,), Severity.CARE, "-cpu host,sve128=on,sve256=off"),
        ((128, 256, 512), Severity.CARE, "-cpu host,sve128=on,sve256=on,sve512=off"),
        ((128, 512), Severity.CARE, "-cpu host,sve128=on,sve256=off,sve512=off"),
        ((512,), Severity.BREAKS, "only guests without SVE (-cpu host,sve=off) can move"),
    ],
)
def test_other_vector_lengths(lengths: tuple[int, ...], severity: Severity, end: str) -> None:
    there, back = said(sve_vector_bits=lengths)
    assert there.severity is back.severity is severity
    assert there.text.endswith(end)
    assert back.text.endswith(end)
    assert "neither QEMU nor proxyd can check it" in there.text


def test_an_interrupt_controller_that_only_one_offers() -> None:
    there, back = said(gic=("v3", "new"))
    assert there.text == "guests with an ITS (-M virt,its=on) cannot be started on B: it offers v3, new"
    assert back.text == "guests with interrupt controller new cannot be started on A: it offers v3, its"
    assert next(one.text for one in said(gic=())).endswith("it offers no interrupt controller")


def test_lower_limits_and_missing_services() -> None:
    lower = {"ARM_VM_IPA_SIZE": 40, "MAX_VCPUS": 8, "PTP_KVM": 0, "COUNTER_OFFSET": 1, "ARM_SVE": 0}
    size, count, clock = said(capabilities=lower)
    assert {one.way for one in (size, count, clock)} == {Way.A_TO_B}
    assert size.text == "guests with memory or devices above 2^40 cannot be started on B (ARM_VM_IPA_SIZE 40, 48 on A)"
    assert count.text.startswith("guests with more than 8 vCPUs cannot be started on B")
    assert clock.text == "guests that set their clocks by the host's (ptp_kvm) have that on A and not on B (PTP_KVM)"


def test_capabilities_on_which_nothing_depends() -> None:
    (one,) = said(capabilities={"COUNTER_OFFSET": 0})
    assert (one.way, one.severity) == (Way.BOTH, Severity.FINE)
    assert one.text.endswith("COUNTER_OFFSET (1 and 0)")


def test_what_a_description_does_not_tell() -> None:
    (one,) = said(replace(HOST, counter_hz=None), gic=None)
    assert one.text.startswith(
        "not compared, because the description of A and B does not tell: the counter's frequency, the interrupt"
    )
    (one,) = said(replace(HOST, midrs=None, capabilities=None, sve_vector_bits=None))
    assert "the description of A does not tell: the kinds of CPU." in one.text
