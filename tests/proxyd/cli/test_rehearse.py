"""``proxyd rehearse`` on a host whose KVM is a real one's, replayed."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.cli import probe
from proxyd.kvm import host_facts
from tests.proxyd.cli.command import FROM_7_3, HOST_7_3, RETURN_PATH, RETURN_PATH_4, Run
from tests.proxyd.kvm.fake_kernel import FakeKernel, real_host


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    """This host has Linux 7.3 on a neoverse-n1."""
    kernel = FakeKernel(real_host("7.3", "neoverse-n1"))
    monkeypatch.setattr(probe, "live_host", lambda: (kernel, kernel))
    monkeypatch.setattr(host_facts, "kernel_release", lambda: "7.3.4")
    monkeypatch.setattr(host_facts, "qemu_version", lambda: "10.0.13")
    return kernel


@pytest.mark.usefixtures("kernel")
def test_a_rewritten_stream_loads_faithfully(run: Run) -> None:
    ran = run("rehearse", RETURN_PATH_4)
    assert (ran.code, ran.err) == (0, "")
    assert "loads rewritten: 3 changes" in ran.out
    assert "rehearsed: loads faithfully on Linux 7.3.4 (8 missing): 4 vCPUs with psci, pmu, " in ran.out


@pytest.mark.usefixtures("kernel")
def test_as_it_is_it_is_refused_by_name(run: Run) -> None:
    ran = run("rehearse", "--as-is", RETURN_PATH_4)
    assert ran.code == 3
    (line,) = [line for line in ran.out.splitlines() if "TCR2_EL1" in line]
    assert line.split()[:4] == ["TCR2_EL1", "0x603000000013c103", "0-3", "0x0"]
    assert "not on this host" in line
    assert "does not load on Linux 7.3.4" in ran.out
    assert "Changes" not in ran.out, "there is no plan"


@pytest.mark.usefixtures("kernel")
def test_as_json(run: Run) -> None:
    document = run("rehearse", "--json", RETURN_PATH).document
    assert (document["version"], document["command"], document["kind"]) == (1, "rehearse", "stream")
    assert document["plan"]["outcome"] == "loads-rewritten"
    assert document["rehearsal"]["faithful"] is True
    assert {finding["kind"] for finding in document["rehearsal"]["findings"]} == {"missing"}
    as_is = run("rehearse", "--json", "--as-is", RETURN_PATH)
    assert as_is.code == 3
    assert "plan" not in as_is.document
    assert as_is.document["rehearsal"]["loads"] is False


@pytest.mark.usefixtures("kernel")
def test_for_a_destination_that_is_described(run: Run) -> None:
    assert run("rehearse", "--destination", HOST_7_3, RETURN_PATH).code == 0


@pytest.mark.usefixtures("kernel")
def test_a_description_of_another_host_shows(run: Run, tmp_path: Path) -> None:
    """The plan believes the description; KVM does not."""
    other = tmp_path / "other.json"
    other.write_bytes(real_host("6.12", "neoverse-n1").to_json())
    ran = run("rehearse", "--destination", other, "--allow", "FW_PSCI_VERSION", RETURN_PATH)
    assert ran.code == 3
    assert "not on this host" in ran.out


def test_a_profile_and_this_host(run: Run, kernel: FakeKernel, tmp_path: Path) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text('name = "p"\n[[rule]]\nkind = "remove"\nregister = "TCR2_EL1"\nreason = "never used"\n')
    ran = run("rehearse", "--profile", profile, RETURN_PATH)
    assert (ran.code, ran.err) == (0, "")
    assert kernel.files == {}


def test_a_plan_that_refuses_is_not_rehearsed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel(real_host("6.12", "neoverse-n1"))
    monkeypatch.setattr(probe, "live_host", lambda: (kernel, kernel))
    monkeypatch.setattr(host_facts, "kernel_release", lambda: "6.12.107")
    ran = run("rehearse", FROM_7_3)
    assert ran.code == 3
    assert "FW_PSCI_VERSION" in ran.out
    assert "not rehearsed: the plan refuses it already (--as-is tries it all the same)" in ran.out
    document = run("rehearse", "--json", FROM_7_3).document
    assert "rehearsal" not in document


def test_a_change_that_is_allowed_by_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """This kernel drops what it does not know of PMCR_EL0, and says nothing."""
    host = real_host("7.3", "neoverse-n1")
    kernel = FakeKernel(host)
    take = kernel._set

    def dropping(vcpu: object, argument: bytearray) -> int:
        return 0 if int.from_bytes(argument[:8], "little") == 0x603000000013DCE0 else take(vcpu, argument)  # type: ignore[arg-type]

    kernel._set = dropping  # type: ignore[method-assign]
    kernel.host = host
    monkeypatch.setattr(probe, "live_host", lambda: (kernel, kernel))
    monkeypatch.setattr(host_facts, "kernel_release", lambda: "7.3.4")
    stream = FROM_7_3.with_name("6.12-10.0.13-neoverse-n1-returnpath-smp1.bin.xz")
    ran = run("rehearse", stream)
    assert ran.code == 3
    assert "changed without an error" in ran.out
    assert run("rehearse", "--allow", "PMCR_EL0", stream).code == 0


def test_on_another_kind_of_host(run: Run, kernel: FakeKernel) -> None:
    kernel.arch = "x86_64"
    ran = run("rehearse", RETURN_PATH)
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.startswith("proxyd rehearse: this host is x86_64")


def test_as_is_takes_no_plan(run: Run) -> None:
    ran = run("rehearse", "--as-is", "--destination", HOST_7_3, RETURN_PATH)
    assert ran.code == 2
    assert "--as-is tries the stream without a plan" in ran.err
