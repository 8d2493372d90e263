"""The prediction of a cell is `proxyd plan` between two host descriptions, in short."""

from tests import recorded
from tests.kvmlab.prediction import plan_between, predict


def test_what_will_be_done_is_said_by_name() -> None:
    hosts = recorded.host_json("6.12", "neoverse-n1"), recorded.host_json("7.3", "neoverse-n1")
    said = predict(*hosts, vcpus=2)
    assert said["outcome"] == "loads-rewritten"
    removed = {"vcpu": 1, "action": "remove", "register": "TCR2_EL1", "old": "0x0", "new": None, "verdict": "proven"}
    assert removed in said["changes"]
    assert {"vcpu": 0, "register": "PMMIR_EL1"} in said["notices"]
    assert said["refusals"] == []


def test_a_refusal_is_said_whole_and_leave_to_lose_counts() -> None:
    hosts = recorded.host_json("7.3", "neoverse-n1"), recorded.host_json("6.12", "neoverse-n1")
    said = predict(*hosts, vcpus=1)
    assert said["outcome"] == "refused"
    assert said["refusals"][0].startswith("vcpu 0: FW_PSCI_VERSION (0x6030000000140000) = 0x10003")
    assert plan_between(*hosts, vcpus=1, allow=["FW_PSCI_VERSION"]).refusals == ()
