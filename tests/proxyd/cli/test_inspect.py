"""``proxyd inspect``: arguments, exit codes and errors. What it shows: test_inspect_view.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import builders as b
from tests.proxyd.cli.command import RETURN_PATH, Run


def test_a_stream(run: Run, stream: Path) -> None:
    ran = run("inspect", stream)
    assert (ran.code, ran.err) == (0, "")
    assert "machine       virt-10.0\n" in ran.out
    assert "Registers that the guest writes" not in ran.out


def test_json(run: Run, stream: Path) -> None:
    ran = run("inspect", stream, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert (ran.document["version"], ran.document["command"], ran.document["complete"]) == (1, "inspect", True)


def test_one_section(run: Run, stream: Path) -> None:
    ran = run("inspect", stream, "--section", "cpu_common")
    assert ran.code == 0
    assert "cpu_common/0, version 1, 8 bytes" in ran.out
    assert "machine" not in ran.out


def test_a_section_that_is_not_there(run: Run, stream: Path) -> None:
    ran = run("inspect", stream, "--section", "gpu")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        f"proxyd inspect: {stream}: device section 'gpu' expected, found only arm_gicv3, cpu_common, cpu, slirp\n"
    )


def test_a_truncated_stream_shows_what_there_was(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(b.stream()[:-1])
    ran = run("inspect", path)
    assert ran.code == 1
    assert "machine       virt-10.0\n" in ran.out
    assert ran.err.startswith(f"proxyd inspect: {path}: at 0x")
    assert ran.err.endswith("without a vmdesc (cut off, or the source runs with suppress-vmdesc=on)\n")
    document = run("inspect", path, "--json").document
    assert (document["complete"], document["vcpus"], document["device_sections"]) == (False, [], [])
    assert "without a vmdesc" in document["error"]


def test_a_section_of_a_truncated_stream(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(b.stream()[:-1])
    ran = run("inspect", path, "--section", "cpu")
    assert ran.code == 1
    assert "without a vmdesc" in ran.err


def test_garbage_is_one_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(b"\x7fELF" + bytes(100))
    ran = run("inspect", path)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (f"proxyd inspect: {path}: at 0x0: not a migration stream: b'QEVM' expected, found b'\\x7fELF'\n")


def test_standard_input(stream: Path) -> None:
    with stream.open("rb") as content:
        ran = subprocess.run(
            [sys.executable, "-m", "proxyd.cli", "inspect", "-", "--json"],
            stdin=content,
            capture_output=True,
            check=False,
        )
    assert ran.returncode == 0
    assert b'"file": "standard input"' in ran.stdout


@pytest.mark.parametrize(
    "option", [[], ["--registers"], ["--section", "cpu"], ["--json", "--registers", "--section", "cpu"]]
)
def test_a_recorded_stream(run: Run, option: list[str]) -> None:
    ran = run("inspect", RETURN_PATH, *option)
    assert (ran.code, ran.err) == (0, "")
