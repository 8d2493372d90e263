"""The prediction of a cell is `proxyd plan` between two host descriptions, in short."""

from formats.arm64.register_id import id_of
from proxyd.rewrite.host import HostDescription
from tests import recorded
from tests.kvmlab.prediction import plan_between, plan_for, plan_row

SOURCE = HostDescription.parse(recorded.host_json("6.12", "neoverse-n1"), "6.12")


def test_what_will_be_done_is_said_by_name() -> None:
    hosts = recorded.host_json("6.12", "neoverse-n1"), recorded.host_json("7.3", "neoverse-n1")
    said = plan_row(plan_between(*hosts, vcpus=2))
    assert said["outcome"] == "loads-rewritten"
    removed = {"vcpu": 1, "action": "remove", "register": "TCR2_EL1", "old": "0x0", "new": None, "verdict": "proven"}
    assert removed in said["changes"]
    assert {"vcpu": 0, "register": "PMMIR_EL1"} in said["notices"]
    assert said["refusals"] == []
    assert said["unaided"] == "fails"


def test_a_refusal_is_said_whole_and_leave_to_lose_counts() -> None:
    hosts = recorded.host_json("7.3", "neoverse-n1"), recorded.host_json("6.12", "neoverse-n1")
    said = plan_row(plan_between(*hosts, vcpus=1))
    assert said["outcome"] == "refused"
    assert said["refusals"][0].startswith("vcpu 0: FW_PSCI_VERSION (0x6030000000140000) = 0x10003")
    assert plan_between(*hosts, vcpus=1, allow=["FW_PSCI_VERSION"]).refusals == ()


def test_what_the_guest_has_written_counts() -> None:
    destination = recorded.host_json("6.1", "neoverse-n1")
    fresh = {f"{register:#x}": f"{value:#x}" for register, value in SOURCE.registers.items()}
    timer = f"{id_of('PTIMER_CVAL'):#x}"
    assert plan_for([fresh], destination).refusals == ()
    refusals = plan_for([{**fresh, timer: "0x7000000000000000"}, fresh], destination).refusals
    assert {refusal.vcpu for refusal in refusals if refusal.register == id_of("PTIMER_CVAL")} == {0}
