"""Host descriptions: round trip, and one clear error for what is not accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.rewrite.host import HostDescription, HostError, Variant
from tests import recorded

TCR2 = id_of("TCR2_EL1")


@pytest.mark.parametrize("cpu", ["neoverse-n1", "neoverse-v1", "max"])
@pytest.mark.parametrize("kernel", recorded.KERNELS)
def test_real_hosts_round_trip(kernel: str, cpu: str) -> None:
    data = recorded.host_json(kernel, cpu)
    host = HostDescription.parse(data, "host.json")
    assert host.to_json() == data
    assert len(host.registers) > 240
    assert (host.writable_masks is None) == (kernel == "6.1")


def test_core_and_sve_registers_are_left_out() -> None:
    document = described(registers=[reg(TCR2, 1), reg(0x6030000000100042, 1), reg(0x6080000000150000, 2)])
    assert HostDescription.parse(document, "h").registers == CpregList({TCR2: 1})


def test_what_is_not_known_is_left_out() -> None:
    host = HostDescription(name="h", registers=CpregList({TCR2: 1}), origin="stream")
    data = json.loads(host.to_json())
    assert data == {
        "format": "proxyd-host",
        "version": 1,
        "name": "h",
        "accelerator": "kvm",
        "origin": "stream",
        "registers": [{"id": "0x603000000013c103", "name": "TCR2_EL1", "value": "0x1"}],
    }
    assert HostDescription.parse(host.to_json(), "h") == host


def reg(register: int, value: int, **more: str) -> dict[str, str]:
    return {"id": f"{register:#x}", "value": f"{value:#x}"} | more


def described(**change: Any) -> bytes:
    document: dict[str, Any] = {
        "format": "proxyd-host",
        "version": 1,
        "name": "h",
        "accelerator": "kvm",
        "origin": "probe",
        "registers": [reg(TCR2, 1)],
    }
    return json.dumps(document | change).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff", "h.json: JSON expected: "),
        (b"{", "h.json: JSON expected: "),
        (b"{}", "h.json: host description (proxyd-host, version 1) expected: Object missing required field `format`"),
        (described(version=2), "h.json: host description (proxyd-host, version 1) expected: Invalid enum value 2"),
        (
            described(typo=1),
            "h.json: host description (proxyd-host, version 1) expected: Object contains unknown field `typo`",
        ),
        (described(registers=[]), "h.json: registers: at least one register expected, found none"),
        (
            described(registers=[reg(TCR2, 1), reg(TCR2, 1)]),
            "h.json: registers[1].id: every id once expected, found 0x603000000013c103 again",
        ),
        (
            described(registers=[reg(TCR2, 1, name="PIR_EL1")]),
            "h.json: registers[0].name: 'TCR2_EL1' expected for 0x603000000013c103, found 'PIR_EL1'",
        ),
        (
            described(registers=[{"id": "TCR2_EL1", "value": "0x1"}]),
            "h.json: registers[0].id: number in hex of at most 64 bits, such as 0x1f, expected, found 'TCR2_EL1'",
        ),
        (
            described(registers=[{"id": f"{TCR2:#x}", "value": "0x1" + "0" * 16}]),
            "h.json: registers[0].value: number in hex of at most 64 bits, such as 0x1f, expected, found '0x1000",
        ),
        (
            described(writable_masks={"X": "0x1"}),
            "h.json: writable_masks.X: name of a register or its id in hex expected",
        ),
        (
            described(writable_masks={"TCR2_EL1": "y"}),
            "h.json: writable_masks.TCR2_EL1: number in hex of at most 64 bits, such as 0x1f, expected, found 'y'",
        ),
        (
            described(counter_hz=0),
            "h.json: host description (proxyd-host, version 1) expected: Expected `int` >= 1 - at `$.counter_hz`",
        ),
        (
            described(midrs=["n1"]),
            "h.json: midrs: number in hex of at most 64 bits, such as 0x1f, expected, found 'n1'",
        ),
        (
            described(variants=[{"features": [], "absent": ["X"], "registers": {}}]),
            "h.json: variants[0].absent: name of a register or its id in hex expected, found 'X'",
        ),
        (
            described(variants=[{"features": [], "absent": [], "registers": {"TCR2_EL1": "1"}}]),
            "h.json: variants[0].registers.TCR2_EL1: number in hex of at most 64 bits, such as 0x1f, expected, found '",
        ),
        (
            described(writable_masks={"TCR2_EL1": "0x1", f"{TCR2:#x}": "0x2"}),
            "h.json: writable_masks.0x603000000013c103: every register once expected, found TCR2_EL1 (0x6030",
        ),
    ],
)
def test_one_clear_error(data: bytes, message: str) -> None:
    with pytest.raises(HostError) as caught:
        HostDescription.parse(data, "h.json")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("text", ["-0x1", " 0x1", "0x1_0", "1f", "", "0x", "0x" + "f" * 5000])
def test_numbers_are_hex_and_nothing_else(text: str) -> None:
    with pytest.raises(HostError) as caught:
        HostDescription.parse(described(registers=[{"id": f"{TCR2:#x}", "value": text}]), "h.json")
    assert caught.value.key == "registers[0].value"
    assert len(str(caught.value)) < 200


def test_masks_of_registers_without_a_name_are_read_back() -> None:
    masks = {TCR2: 1, 0x603000000013C03F: 2, 0x40200000200F0082: 3, 0x6030000000140FFF: 4}
    host = HostDescription(name="h", registers=CpregList({TCR2: 1}), writable_masks=masks)
    assert HostDescription.parse(host.to_json(), "h") == host


MIDR, PMCR = id_of("MIDR_EL1"), id_of("PMCR_EL0")
PROBED = HostDescription(
    name="h",
    registers=CpregList({MIDR: 0x414FD0C1, TCR2: 1, PMCR: 2}),
    kernel="7.3",
    features=("psci", "pmu", "sve"),
    missing_features={"pauth": "KVM has no ARM_PTRAUTH_ADDRESS"},
    gic=("v3", "its"),
    counter_hz=62_500_000,
    midrs=(0x414FD0C1,),
    sve_vector_bits=(128, 256),
    variants=(
        Variant(("psci", "sve"), frozenset({PMCR}), {TCR2: 3}),
        Variant(("psci",), frozenset({PMCR, TCR2}), {}),
    ),
)


def test_what_only_a_probe_knows_is_read_back() -> None:
    assert HostDescription.parse(PROBED.to_json(), "h") == PROBED
    assert json.loads(PROBED.to_json())["variants"] == [
        {"features": ["psci", "sve"], "absent": ["PMCR_EL0"], "registers": {"TCR2_EL1": "0x3"}},
        {"features": ["psci"], "absent": ["TCR2_EL1", "PMCR_EL0"], "registers": {}},
    ]


def test_a_host_without_variants_says_so() -> None:
    alone = HostDescription("h", CpregList({TCR2: 1}), features=("psci",), missing_features={}, variants=())
    assert HostDescription.parse(alone.to_json(), "h") == alone


def test_the_list_of_other_features() -> None:
    assert PROBED.with_features(["sve", "pmu", "psci"]) is PROBED
    without_pmu = PROBED.with_features({"psci", "sve"})
    assert without_pmu is not None
    assert dict(without_pmu.registers) == {MIDR: 0x414FD0C1, TCR2: 3}
    assert (without_pmu.features, without_pmu.variants) == (("psci", "sve"), None)
    assert (without_pmu.kernel, without_pmu.sve_vector_bits) == ("7.3", (128, 256))
    bare = PROBED.with_features({"psci"})
    assert bare is not None
    assert (dict(bare.registers), bare.sve_vector_bits) == ({MIDR: 0x414FD0C1}, None)


def test_a_list_that_nobody_has_read() -> None:
    assert PROBED.with_features({"psci", "pmu"}) is None
    assert HostDescription("h", CpregList({TCR2: 1})).with_features(()) is None


def test_what_makes_another_list_of_one() -> None:
    one, other = CpregList({MIDR: 1, TCR2: 1, PMCR: 2}), CpregList({MIDR: 1, TCR2: 3, id_of("ZCR_EL1"): 4})
    variant = Variant.between(["psci"], one, other)
    assert variant == Variant(("psci",), frozenset({PMCR}), {TCR2: 3, id_of("ZCR_EL1"): 4})
    assert one.edited(remove=variant.absent, put=variant.registers) == other
