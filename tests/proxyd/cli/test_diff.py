"""``proxyd diff``: arguments and exit codes. What it shows: test_diff_view.py."""

from __future__ import annotations

from pathlib import Path

from tests.proxyd.cli.command import HOST_7_3, RETURN_PATH, Run
from tests.recorded import host_json


def test_differences_are_no_error(run: Run, stream: Path, host: Path) -> None:
    ran = run("diff", stream, host)
    assert (ran.code, ran.err) == (0, "")
    assert "Only in A: 1" in ran.out


def test_json(run: Run, stream: Path, host: Path) -> None:
    ran = run("diff", stream, host, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert (ran.document["version"], ran.document["command"]) == (1, "diff")


def test_standard_input_is_only_one_of_them(run: Run) -> None:
    ran = run("diff", "-", "-")
    assert (ran.code, ran.err) == (2, "proxyd diff: only one of A and B can be '-'\n")


def test_a_bad_file_is_1_and_named(run: Run, stream: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"QEVM")
    ran = run("diff", stream, tmp_path / "bad")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"proxyd diff: {tmp_path}/bad: at 0x4: the stream ends inside the file header\n"


def test_a_real_stream_and_a_real_host(run: Run) -> None:
    document = run("diff", RETURN_PATH, HOST_7_3, "--json").document
    assert [one["name"] for one in document["only_in_a"]] == ["TCR2_EL1", "PIRE0_EL1", "PIR_EL1"]
    assert [one["name"] for one in document["only_in_b"]] == ["PMMIR_EL1", "FW_VENDOR_HYP_BMAP_2"]
    psci = next(one for one in document["other_value"] if one["name"] == "FW_PSCI_VERSION")
    assert psci == {
        "name": "FW_PSCI_VERSION",
        "id": "0x6030000000140000",
        "vcpus": [0],
        "a": "0x10001",
        "b": "0x10003",
        "fields": [{"field": "MINOR", "a": 1, "b": 3}],
    }


def test_two_hosts_are_told_in_words(run: Run, tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_bytes(host_json("6.12", "neoverse-n1"))
    new.write_bytes(host_json("7.3", "neoverse-n1"))
    ran = run("diff", old, new)
    assert (ran.code, ran.err) == (0, "")
    assert "guests load on B after rewriting: 3 registers removed (proven): TCR2_EL1, PIRE0_EL1, PIR_EL1" in ran.out
    assert "guests are refused by A, and stay on B: FW_PSCI_VERSION" in ran.out
    guests = run("diff", old, new, "--json").document["guests"]
    assert {one["way"] for one in guests} == {"a-to-b", "b-to-a", "both"}
    assert run("diff", RETURN_PATH, new, "--json").document["guests"] is None
