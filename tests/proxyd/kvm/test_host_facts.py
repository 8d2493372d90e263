"""What the host says outside KVM."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxyd.kvm import host_facts
from proxyd.kvm.host_facts import cpu_name, host_midrs, kernel_release, qemu_version


def test_the_kernel_is_that_of_uname() -> None:
    assert kernel_release() == os.uname().release


@pytest.mark.parametrize(
    ("midr", "name"),
    [
        (0x414FD0C1, "neoverse-n1 r4p1"),
        (0x411FD402, "neoverse-v1 r1p2"),
        (0x000F0510, "implementer 0x00 part 0x051 r0p0"),
        (0x481FD010, "tsv110 r1p0"),
    ],
)
def test_names_of_cpus(midr: int, name: str) -> None:
    assert cpu_name(midr) == name


def test_every_kind_of_cpu_once(tmp_path: Path) -> None:
    for number, midr in enumerate(["0x00000000414fd0c1", "0x00000000411fd402", "0x00000000414fd0c1"]):
        directory = tmp_path / f"cpu{number}" / "regs" / "identification"
        directory.mkdir(parents=True)
        (directory / "midr_el1").write_text(f"{midr}\n")
    (tmp_path / "cpufreq").mkdir()
    (tmp_path / "cpu9" / "regs" / "identification" / "midr_el1").mkdir(parents=True)  # cannot be read
    assert host_midrs(tmp_path) == (0x411FD402, 0x414FD0C1)


def test_a_host_that_does_not_tell(tmp_path: Path) -> None:
    assert host_midrs(tmp_path) == ()


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_first_qemu_that_says_a_version(tmp_path: Path) -> None:
    candidates = [
        str(tmp_path / "not-there"),
        program(tmp_path / "dumb", "echo hello; exit 1"),
        program(tmp_path / "debian", "echo 'QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)'"),
        program(tmp_path / "newer", "echo 'QEMU emulator version 11.1.3'"),
    ]
    assert qemu_version(candidates) == "10.0.13"


def test_a_version_of_two_numbers(tmp_path: Path) -> None:
    assert qemu_version([program(tmp_path / "qemu", "echo QEMU emulator version 11.1")]) == "11.1"


def test_no_qemu() -> None:
    assert qemu_version(["/nowhere/qemu"]) is None


def test_a_qemu_that_hangs_or_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_facts, "QEMU_SECONDS", 0.05)
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    assert qemu_version([program(tmp_path / "hangs", "exec sleep 60"), str(broken)]) is None


def test_qemu_is_looked_for_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "qemu-system-aarch64", "echo QEMU emulator version 7.2.4")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert qemu_version() == "7.2.4"
