"""``proxyd plan``: the dry run and its exit codes. What it shows: test_plan_view.py and test_matrix_view.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import id_of
from proxyd.rewrite.host import HostDescription, Variant
from tests import builders as b
from tests import images
from tests.proxyd.cli.command import FROM_7_3, HOST_7_3, RETURN_PATH, RETURN_PATH_4, Run
from tests.recorded import HOSTS


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


# Host sets.


def described(kernel: str) -> Path:
    return HOSTS / f"{kernel}-neoverse-n1.json.xz"


def test_hosts_that_all_take_each_others_guests_are_0(run: Run) -> None:
    ran = run("plan", described("6.18"), described("7.1"))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("2 ways between 2 hosts: 2 as is\n")


def test_hosts_of_which_one_refuses_are_3(run: Run) -> None:
    ran = run("plan", described("6.12"), described("6.18"))
    assert (ran.code, ran.err) == (3, "")
    assert "refused, FW_PSCI_VERSION (" in ran.out
    assert run("plan", described("6.12"), described("6.18"), "--allow", "FW_PSCI_VERSION").code == 0


def test_json_of_hosts(run: Run) -> None:
    ran = run("plan", described("6.12"), described("6.18"), "--json")
    assert ran.code == 3
    assert (ran.document["version"], ran.document["command"], ran.document["outcome"]) == (1, "plan", "refused")
    assert [(cell["source"], cell["destination"]) for cell in ran.document["cells"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_stream_among_hosts_is_2(run: Run) -> None:
    ran = run("plan", HOST_7_3, RETURN_PATH)
    assert ran.code == 2
    assert ran.err == (
        f"proxyd plan: host descriptions expected (or --destination HOST.json), found a stream, {RETURN_PATH}\n"
    )


def test_several_for_one_destination_are_2(run: Run) -> None:
    ran = run("plan", "--destination", HOST_7_3, RETURN_PATH, RETURN_PATH_4)
    assert (ran.code, ran.err) == (2, "proxyd plan: one STREAM or HOST.json to plan for expected, found 2\n")


# Features.

MIDR, PMCR = id_of("MIDR_EL1"), id_of("PMCR_EL0")


@pytest.fixture
def pmu(tmp_path: Path) -> Path:
    path = tmp_path / "pmu.json"
    without = Variant(("psci",), frozenset({PMCR}), {})
    registers = CpregList({MIDR: 1, PMCR: 2})
    host = HostDescription("pmu", registers, kernel="7.3", features=("psci", "pmu"), variants=(without,))
    path.write_bytes(host.to_json())
    return path


@pytest.fixture
def none(tmp_path: Path) -> Path:
    path = tmp_path / "none.json"
    path.write_bytes(HostDescription("none", CpregList({MIDR: 1}), kernel="7.3", features=("psci",)).to_json())
    return path


def test_guests_without_a_feature(run: Run, pmu: Path, none: Path) -> None:
    assert run("plan", pmu, none).code == 3
    assert run("plan", pmu, none, "--without", "pmu").code == 0
    assert run("plan", pmu, none, "--features", "psci").code == 0
    assert run("plan", "--destination", none, pmu).code == 3
    assert run("plan", "--destination", none, pmu, "--without", "pmu").code == 0


def test_a_host_with_more_is_taken_with_the_guests_features(run: Run, pmu: Path, none: Path) -> None:
    assert "loads as it is: 0 changes, 1 vCPU" in run("plan", "--destination", pmu, none).out


def test_a_streams_guest_has_the_features_it_has(run: Run, pmu: Path, stream: Path) -> None:
    ran = run("plan", "--destination", pmu, stream, "--without", "pmu")
    assert ran.code == 2
    assert ran.err.startswith("proxyd plan: --features and --without go with host descriptions: a stream's guest has")


def test_a_profile_and_a_hosts_guest_without_a_feature(run: Run, pmu: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text('[[rule]]\nkind = "remove"\nregister = "PMCR_EL0"\nreason = "not there"\n')
    assert "1 change" in run("plan", "--profile", profile, pmu).out
    assert "0 changes" in run("plan", "--profile", profile, pmu, "--without", "pmu").out


def test_features_that_the_host_does_not_have_are_1(run: Run, pmu: Path) -> None:
    ran = run("plan", "--destination", pmu, pmu, "--features", "sve")
    assert (ran.code, ran.err) == (1, "proxyd plan: host pmu: features of psci, pmu expected, found psci, sve\n")


@pytest.mark.parametrize("option", ["--features", "--without"])
def test_an_unknown_feature_is_2(run: Run, pmu: Path, option: str) -> None:
    ran = run("plan", pmu, pmu, option, "pmu,sme")
    assert ran.code == 2
    expected = "features of psci, pmu, sve, pauth, el2, mte expected, separated by commas, found 'sme'"
    assert ran.err == f"proxyd plan: {option}: {expected}\n"


@pytest.mark.parametrize("build", [images.mapped_ram, lambda: images.save_image("zstd", b.stream(parts=b.devices(2)))])
def test_any_file_that_holds_a_stream(run: Run, host: Path, tmp_path: Path, build: Callable[[], bytes]) -> None:
    (tmp_path / "saved").write_bytes(build())
    ran = run("plan", "--destination", host, "--allow", "TCR2_EL1", "--json", tmp_path / "saved")
    assert ran.code == 0
    assert ran.document["outcome"] == "loads-rewritten"
    assert {change["name"] for change in ran.document["changes"]} == {"TCR2_EL1"}
