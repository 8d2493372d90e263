"""The report's JSON: names beside ids, numbers in hex, a version."""

from __future__ import annotations

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination, VcpuRegisters, make_plan
from proxyd.rewrite.rehearsal import Rehearsal
from proxyd.rewrite.report import RewriteReport

TCR2, MMFR3, PSCI = id_of("TCR2_EL1"), id_of("ID_AA64MMFR3_EL1"), id_of("FW_PSCI_VERSION")


def test_json() -> None:
    host = HostDescription(name="h", registers=CpregList({MMFR3: 0, PSCI: 0x10001}), kernel="9.0")
    guest = CpregList({MMFR3: 0, TCR2: 0, PSCI: 0x10003})
    plan = make_plan([VcpuRegisters(0, guest)], Destination(host), Knowledge.builtin())
    report = RewriteReport("virt-10.0", plan)
    assert report.counts() == {("remove", "proven"): 1}
    document = report.to_json_dict()
    assert (document["version"], document["machine"], document["outcome"], document["vcpus"]) == (
        1,
        "virt-10.0",
        "refused",
        [0],
    )
    (change,) = document["changes"]
    assert change["name"] == "TCR2_EL1"
    assert (change["register"], change["action"], change["old"], change["new"]) == (
        "0x603000000013c103",
        "remove",
        "0x0",
        None,
    )
    (refusal,) = document["refusals"]
    assert (refusal["name"], refusal["value"], refusal["destination_value"]) == (
        "FW_PSCI_VERSION",
        "0x10003",
        "0x10001",
    )
    assert [notice["register"] for notice in document["notices"]] == [None]
    assert document["unaided"] == {
        "foreseen": "fails",
        "fails": ["FW_PSCI_VERSION = 0x10003: EINVAL, the destination takes at most its own value"],
        "changes": [],
        "unknown": [
            "3 registers for 2: QEMU up to 10.2 fails on that; its version is not known",
            (
                "TCR2_EL1 (0x603000000013c103) = 0x0: the destination does not list it, and its QEMU's version is not "
                "known"
            ),
        ],
    }
    assert RewriteReport(None, make_plan([], Destination(), Knowledge.builtin())).to_json_dict()["unaided"] is None


def test_a_rehearsal_is_in_the_report() -> None:
    plan = make_plan([], Destination(), Knowledge.builtin())
    rehearsal = Rehearsal((), ("psci",), "7.3.4", 0, 0.5)
    assert RewriteReport(None, plan, rehearsal).to_json_dict()["rehearsal"] == rehearsal.to_json_dict()
    assert "rehearsal" not in RewriteReport(None, plan).to_json_dict()
