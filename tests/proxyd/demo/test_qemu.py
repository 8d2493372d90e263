"""The demo with real QEMUs, and with programs that are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proxyd.demo import qemu
from proxyd.demo.qemu import QemuMissing, QemuUnfit, find, play
from proxyd.rewrite.verdict import Verdict
from tests.qemu.versions import QEMU_7_2, QEMU_10_0, QEMU_11_1, Version


def script(path: Path, *lines: str) -> str:
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.qemu
@pytest.mark.parametrize("version", [QEMU_7_2, QEMU_10_0, QEMU_11_1], ids=lambda version: version.name)
async def test_it_fails_directly_and_loads_through_proxyd(version: Version, tmp_path: Path) -> None:
    words = " ".join(f"'{word}'" for word in version.command())
    story = await play(script(tmp_path / "qemu", f'exec {words} "$@"'))
    assert f"version {version.name}" in story.version
    assert story.direct.status == "failed"
    assert any("load of migration failed" in line for line in story.direct.stderr)
    assert story.direct.destination_lines == ()
    assert story.proxied.status == "completed"
    assert story.proxied.stderr == ()
    first, *counted = story.proxied.source_lines + story.proxied.destination_lines
    assert first == "start"
    assert [int(line.split()[0]) for line in counted] == list(range(1, len(counted) + 1)), "the count goes on"
    assert {line.split(" ", 1)[1] for line in story.proxied.destination_lines} == {"id:ID_AA64DFR0_EL1"}
    assert story.report is not None
    assert {change.verdict for change in story.report.plan.changes} == {Verdict.NEUTRAL, Verdict.LOSSY}


def test_a_qemu_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QemuMissing, match=r"^qemu-system-aarch64 not found; install it \(Debian.*qemu-system-arm"):
        find(None)
    here = script(tmp_path / "qemu-system-aarch64")
    assert find(None) == here


def test_a_qemu_by_name(tmp_path: Path) -> None:
    here = script(tmp_path / "mine")
    assert find(here) == here
    with pytest.raises(QemuMissing, match=r"other: no such program$"):
        find(str(tmp_path / "other"))


async def test_a_program_that_ends(tmp_path: Path) -> None:
    with pytest.raises(QemuUnfit, match=r"^QEMU ended: no such CPU$"):
        await play(script(tmp_path / "qemu", "echo no such CPU >&2"))
    with pytest.raises(QemuUnfit, match=r"^QEMU ended: without a word on standard error$"):
        await play(script(tmp_path / "qemu", "true"))


# A program that answers on the monitor as told, one line for each command, and then ends.
MONITOR = """
import socket, sys
number = next(word for word in sys.argv if word.startswith("socket,id=monitor"))
monitor = socket.socket(fileno=int(number.rpartition("fd=")[2]))
for answer in {answers!r}:
    monitor.recv(4096)
    monitor.sendall(answer)
"""


def speaking(tmp_path: Path, *answers: bytes) -> str:
    program = tmp_path / "monitor.py"
    program.write_text(MONITOR.format(answers=answers))
    return script(tmp_path / "qemu", f'[ "$1" = -version ] || exec {sys.executable} -S {program} "$@"')


async def test_a_program_that_refuses_a_command(tmp_path: Path) -> None:
    program = speaking(tmp_path, b'{"QMP": {}}\n{"return": {}}\n', b'{"error": {"desc": "no such capability"}}\n')
    with pytest.raises(QemuUnfit, match=r"^QEMU refused migrate-set-capabilities: no such capability$"):
        await play(program)


async def test_a_program_that_ends_while_its_guest_should_count(tmp_path: Path) -> None:
    with pytest.raises(QemuUnfit, match=r"^QEMU ended: "):
        await play(speaking(tmp_path, b'{"return": {}}\n', b'{"event": "RESUME"}\n{"return": {}}\n'))


async def test_a_program_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "LONGEST_S", 0.2)
    program = script(tmp_path / "qemu", '[ "$1" = -version ] || exec sleep 600')
    with pytest.raises(QemuUnfit, match=r"qemu: not done within 0.2 seconds$"):
        await play(program)


async def test_what_is_a_bug_stays_one(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup):
        await play(speaking(tmp_path, b"not json\n"))
