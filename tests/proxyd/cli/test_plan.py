"""``proxyd plan``: the dry run and its exit codes. What it shows: test_plan_view.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proxyd.cli.command import FROM_7_3, HOST_7_3, RETURN_PATH, RETURN_PATH_4, Run


@pytest.mark.parametrize("stream", [RETURN_PATH, RETURN_PATH_4])
def test_loads_rewritten_is_0(run: Run, stream: Path) -> None:
    ran = run("plan", "--destination", HOST_7_3, stream)
    assert (ran.code, ran.err) == (0, "")
    assert "loads rewritten: 3 changes (3 proven), " in ran.out


def test_loads_as_it_is_is_0(run: Run) -> None:
    ran = run("plan", "--destination", HOST_7_3, FROM_7_3)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("loads as it is: 0 changes, 1 vCPU\n")


def test_refused_is_3(run: Run, stream: Path, host: Path) -> None:
    ran = run("plan", "--destination", host, stream)
    assert (ran.code, ran.err) == (3, "")
    assert "\nRefused\n" in ran.out


def test_allowed_by_name_is_0(run: Run, stream: Path, host: Path) -> None:
    ran = run("plan", "--destination", host, "--allow", "TCR2_EL1", stream)
    assert (ran.code, ran.err) == (0, "")
    assert "loads rewritten: 1 change (1 lossy), 2 vCPUs\n" in ran.out


def test_a_profile(run: Run, stream: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text('[[rule]]\nkind = "remove"\nregister = "TCR2_EL1"\nreason = "not there"\n')
    assert "loads rewritten: 1 change (1 neutral), 2 vCPUs\n" in run("plan", "--profile", profile, stream).out


def test_from_host_to_host(run: Run, host: Path) -> None:
    ran = run("plan", "--destination", host, host)
    assert ran.code == 0
    assert ran.out.startswith(f"{host}: host new, Linux 7.3, 2 registers\n")


def test_json(run: Run) -> None:
    document = run("plan", "--destination", HOST_7_3, RETURN_PATH, "--json").document
    assert list(document)[:4] == ["version", "command", "file", "kind"]
    assert (document["version"], document["command"], document["kind"]) == (1, "plan", "stream")
    assert (document["outcome"], document["machine"], document["vcpus"]) == ("loads-rewritten", "virt-10.0", [0])
    assert [change["name"] for change in document["changes"]] == ["TCR2_EL1", "PIRE0_EL1", "PIR_EL1"]
    assert document["refusals"] == []


def test_json_of_a_refusal_is_3(run: Run, stream: Path, host: Path) -> None:
    ran = run("plan", "--destination", host, stream, "--json")
    assert ran.code == 3
    assert [refusal["name"] for refusal in ran.document["refusals"]] == ["TCR2_EL1", "TCR2_EL1"]


def test_no_destination_is_2(run: Run, stream: Path) -> None:
    ran = run("plan", stream)
    assert (ran.code, ran.err) == (
        2,
        "proxyd plan: --destination HOST.json or --profile FILE expected, found neither\n",
    )


def test_an_unknown_register_is_2(run: Run, stream: Path, host: Path) -> None:
    ran = run("plan", "--destination", host, "--allow", "TCR9_EL1", stream)
    assert ran.code == 2
    assert "found 'TCR9_EL1'" in ran.err


def test_a_missing_destination_is_4(run: Run, stream: Path) -> None:
    assert run("plan", "--destination", "/nowhere.json", stream).code == 4
