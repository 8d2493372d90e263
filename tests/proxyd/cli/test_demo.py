"""``proxyd demo``: exit codes. The plot: tests/proxyd/demo; what it shows: test_demo_view.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from proxyd.demo import play, qemu, source
from proxyd.demo.play import Story
from tests.proxyd.cli.command import Run


def test_it_needs_nothing_and_is_0(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = run("demo")
    assert (ran.code, ran.err) == (0, "")
    assert "qemu-system-aarch64: Failed to load cpu:cpreg_vmstate_array_len\n" in ran.out
    assert "without proxyd it fails, through proxyd it loads: 3 changes (3 proven), 1 vCPU" in ran.out


def test_json(run: Run) -> None:
    ran = run("demo", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = ran.document
    assert (document["version"], document["command"]) == (1, "demo")
    assert document["seconds"] < 10
    assert document["direct"]["source_status"] == "failed"
    assert document["proxied"]["source_status"] == "completed"


def test_a_demo_that_does_not_come_out_is_a_bug_of_ours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    true_play = play.play

    async def failing() -> Story:
        story = await true_play()
        return replace(story, proxied=replace(story.proxied, source=source.Result("failed", "no")))

    monkeypatch.setattr(play, "play", failing)
    assert run("demo").code == 70


def test_without_a_qemu_it_says_what_to_install(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = run("demo", "--qemu")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.startswith(
        "proxyd demo: qemu-system-aarch64 not found; install it (Debian, Ubuntu: apt-get install "
    )


def test_a_qemu_that_is_none(run: Run) -> None:
    ran = run("demo", "--qemu-binary", "/bin/false")
    assert (ran.code, ran.err) == (4, "proxyd demo: /bin/false: QEMU ended: without a word on standard error\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_no_qemu_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The "QEMU" says who it is on a pipe and then nothing; the pipe closes when the last of them is gone."""
    os.mkfifo(tmp_path / "pid")
    program = tmp_path / "qemu"
    program.write_text(f'#!/bin/sh\n[ "$1" = -version ] && exit\nexec 9>{tmp_path}/pid\necho $$ >&9\nexec sleep 600\n')
    program.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-m", "proxyd.cli", "demo", "--qemu-binary", str(program)], stderr=subprocess.PIPE
    ) as process:
        with (tmp_path / "pid").open() as pipe:
            pid = int(pipe.readline())
            process.send_signal(number)
            assert pipe.read() == ""
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (code, b"")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 70)])
@pytest.mark.parametrize("option", [[], ["--json"]])
def test_with_a_qemu(run: Run, monkeypatch: pytest.MonkeyPatch, status: str, code: int, option: list[str]) -> None:
    async def played(program: str) -> qemu.QemuStory:
        failed = qemu.QemuAttempt("failed", None, ("no",), ("start", "1 ok"), ())
        return qemu.QemuStory(program, failed, replace(failed, status=status), None, 1.0)

    monkeypatch.setattr(qemu, "play", played)
    assert run("demo", "--qemu-binary", "/bin/true", *option).code == code
