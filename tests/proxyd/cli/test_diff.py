"""``proxyd diff``: arguments and exit codes. What it shows: test_diff_view.py."""

from __future__ import annotations

from pathlib import Path

from tests.proxyd.cli.command import HOST_7_3, RETURN_PATH, Run


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
