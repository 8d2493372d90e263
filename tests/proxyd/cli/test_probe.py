"""``proxyd probe --from-stream``: a description that plan and the daemon take as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.rewrite.host import HostDescription
from tests import builders as b
from tests.proxyd.cli.command import FROM_7_3, RETURN_PATH, RETURN_PATH_4, Run


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


def test_a_live_host_comes_later(run: Run) -> None:
    ran = run("probe")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "proxyd probe: probing a live host comes with a later version; save a stream on the host "
        '(QEMU monitor: migrate "exec:cat>FILE") and use --from-stream FILE\n'
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
