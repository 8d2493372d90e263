"""``proxyd probe``, of a live host and of a stream: a description that plan and the daemon take as it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from proxyd.cli import probe
from proxyd.kvm import abi, host_facts
from proxyd.rewrite.host import HostDescription
from tests import builders as b
from tests.proxyd.cli.command import FROM_7_3, RETURN_PATH, RETURN_PATH_4, Run
from tests.proxyd.kvm.fake_kernel import FakeKernel, real_host


def test_a_description_from_a_stream(run: Run, stream: Path) -> None:
    ran = run("probe", "--from-stream", stream, "--kernel", "6.12.107", "--qemu", "10.0", "--cpu", "neoverse-n1")
    assert (ran.code, ran.err) == (0, "")
    host = HostDescription.parse(ran.out.encode(), "out")
    assert dict(host.registers) == b.SOME_REGISTERS
    assert (host.name, host.kernel, host.qemu, host.cpu) == ("small", "6.12.107", "10.0", "neoverse-n1")
    assert (host.origin, host.accelerator, host.machine) == ("stream", "kvm", "virt-10.0")


def test_into_a_file(run: Run, stream: Path, tmp_path: Path) -> None:
    output = tmp_path / "host.json"
    ran = run("probe", "--from-stream", stream, "-o", output, "--name", "alpha", "--accelerator", "tcg")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == f"{output}: 3 registers\n"
    host = HostDescription.parse(output.read_bytes(), "out")
    assert (host.name, host.accelerator, host.kernel) == ("alpha", "tcg", None)


def test_a_missing_kernel_is_worth_a_word(run: Run, stream: Path) -> None:
    assert run("probe", "--from-stream", stream).err == (
        "no --kernel given: without it, an ID register whose value differs at all will be refused\n"
    )


@pytest.mark.parametrize(("name", "host"), [("a.bin.xz", "a"), ("b.gz", "b"), ("c.d", "c.d")])
def test_the_name_is_that_of_the_file(run: Run, tmp_path: Path, name: str, host: str) -> None:
    (tmp_path / name).write_bytes(b.stream())
    ran = run("probe", "--from-stream", tmp_path / name)
    assert HostDescription.parse(ran.out.encode(), "out").name == host


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    """A live host: this one, but with the KVM of Linux 7.3 on a neoverse-v1."""
    kernel = FakeKernel(real_host("7.3", "neoverse-v1"))
    monkeypatch.setattr(probe, "live_host", lambda: (kernel, kernel))
    monkeypatch.setattr(host_facts, "qemu_version", lambda: "10.0.13")
    monkeypatch.setattr(host_facts, "host_midrs", lambda: (0x411FD402,))
    return kernel


@pytest.mark.usefixtures("kernel")
def test_a_live_host(run: Run) -> None:
    ran = run("probe")
    assert (ran.code, ran.err) == (0, "")
    host = HostDescription.parse(ran.out.encode(), "out")
    assert list(host.registers) == list(real_host("7.3", "neoverse-v1").registers)
    assert (host.name, host.kernel, host.qemu) == (os.uname().nodename, os.uname().release, "10.0.13")
    assert (host.origin, host.features, host.midrs) == ("probe", ("psci", "pmu", "sve", "pauth"), (0x411FD402,))


@pytest.mark.usefixtures("kernel")
def test_a_live_host_into_a_file(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "host.json"
    ran = run("probe", "-o", output, "--name", "beta", "--qemu", "11.1.3", "--features", "pmu")
    assert (ran.code, ran.out) == (0, "")
    host = HostDescription.parse(output.read_bytes(), "out")
    assert ran.err == f"{output}: {len(host.registers)} registers\n"
    assert (host.name, host.qemu, host.features) == ("beta", "11.1.3", ("psci", "pmu"))


def test_a_feature_that_the_host_has_not_is_told(run: Run, kernel: FakeKernel) -> None:
    kernel.capabilities = {**kernel.capabilities, 170: 0}
    ran = run("probe")
    assert (ran.code, ran.err) == (0, "left out: sve: KVM has no ARM_SVE\n")


@pytest.mark.usefixtures("kernel")
def test_several_kinds_of_cpu_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_facts, "host_midrs", lambda: (0x410FD034, 0x411FD402))
    assert run("probe").err == "2 kinds of CPU: a guest's registers depend on where its QEMU is pinned\n"


def test_a_host_without_kvm(run: Run, kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.arch = "x86_64"
    ran = run("probe", "-o", tmp_path / "host.json")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err == (
        "proxyd probe: this host is x86_64: KVM's register list is asked for on the arm64 host itself "
        "(or give --from-stream)\n"
    )
    assert not (tmp_path / "host.json").exists()


def test_a_call_that_kvm_refuses(run: Run, kernel: FakeKernel) -> None:
    kernel.refuse[abi.KVM_CREATE_VM] = errno.ENOMEM
    ran = run("probe")
    assert (ran.code, ran.err) == (4, "proxyd probe: KVM_CREATE_VM: cannot allocate memory (ENOMEM)\n")


def test_the_live_host_is_this_one() -> None:
    system, clock = probe.live_host()
    assert system.machine() == os.uname().machine
    assert clock.now() <= clock.now()


@pytest.mark.parametrize("option", ["--kernel", "--cpu", "--accelerator"])
def test_what_a_live_host_says_itself(run: Run, option: str) -> None:
    ran = run("probe", option, "kvm")
    assert (ran.code, ran.err) == (
        2,
        f"proxyd probe: {option} goes with --from-stream: a host that is asked says it itself\n",
    )


def test_an_unknown_feature(run: Run) -> None:
    ran = run("probe", "--features", "pmu,sme")
    assert ran.code == 2
    assert ran.err == (
        "proxyd probe: --features: features of psci, pmu, sve, pauth, el2, mte expected, separated by commas, "
        "found 'sme'\n"
    )


def test_features_are_for_a_live_host(run: Run, stream: Path) -> None:
    ran = run("probe", "--from-stream", stream, "--features", "sve,pmu")
    assert ran.code == 2
    assert "--features is for probing a live host" in ran.err


def test_a_host_description_is_no_stream(run: Run, host: Path) -> None:
    ran = run("probe", "--from-stream", host)
    assert (ran.code, ran.err) == (1, f"proxyd probe: {host}: a stream expected, found a host description\n")


def test_vcpus_with_different_lists(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "uneven"
    path.write_bytes(b.stream(parts=[b.cpu(b.SOME_REGISTERS), b.cpu({0x603000000013C000: 1}, instance=1)]))
    ran = run("probe", "--from-stream", path)
    assert ran.code == 1
    assert ran.err == (
        f"proxyd probe: {path}: the same registers on every vCPU expected, found TCR2_EL1 (0x603000000013c103) "
        "on only one of vCPU 0 and 1\n"
    )


def test_an_output_that_cannot_be_written(run: Run, stream: Path, tmp_path: Path) -> None:
    ran = run("probe", "--from-stream", stream, "-o", tmp_path / "no" / "host.json", "--kernel", "6.12")
    assert ran.code == 4


def test_what_was_probed_is_a_destination(run: Run, tmp_path: Path) -> None:
    """A guest goes from 6.12 to the host of another guest on 7.3, and back to the kernel it came from as it is."""
    for stream, kernel in ((FROM_7_3, "7.3"), (RETURN_PATH, "6.12")):
        assert run("probe", "--from-stream", stream, "--kernel", kernel, "-o", tmp_path / kernel).code == 0
    assert (
        run("plan", "--destination", tmp_path / "7.3", RETURN_PATH_4, "--json").document["outcome"] == "loads-rewritten"
    )
    assert run("plan", "--destination", tmp_path / "6.12", RETURN_PATH_4, "--json").document["outcome"] == "loads-as-is"
