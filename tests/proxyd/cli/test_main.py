"""What becomes of everything that can go wrong, in this process and as a process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from proxyd.cli import inspect
from proxyd.cli.exit_codes import CommandError, ExitCode, InputError
from proxyd.cli.main import VERBS, main
from tests.proxyd.cli.command import RETURN_PATH, Run

PROXYD = [sys.executable, "-m", "proxyd.cli"]


def test_every_verb_of_the_design_is_there(run: Run) -> None:
    assert list(VERBS) == [
        "serve", "check-config", "status", "route", "reload", "upgrade", "drain", "abort", "inspect", "diff", "probe",
        "plan", "rehearse", "rehearsal-service", "rewrite", "replay", "explain", "demo",
    ]  # fmt: skip
    shown = run("--help").out
    for verb in VERBS:
        assert f"\n    {verb}" in shown


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(run: Run, verb: str) -> None:
    ran = run(verb, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"usage: proxyd {verb} ")
    assert "--debug" in ran.out


def test_the_version(run: Run) -> None:
    assert run("--version").out.startswith("proxyd 0.")


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["inspect"], ["inspect", "a", "b"]])
def test_usage_is_2(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert ran.err.startswith("usage: proxyd")


def test_a_missing_file_is_4(run: Run, tmp_path: Path) -> None:
    ran = run("inspect", tmp_path / "missing")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err == f"proxyd inspect: {tmp_path}/missing: no such file or directory\n"


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(_arguments: object) -> ExitCode:
        raise error

    monkeypatch.setattr(inspect, "run", run)


def test_an_operating_system_error_without_a_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, OSError("the disk is on fire"))
    ran = run("inspect", "x")
    assert (ran.code, ran.err) == (4, "proxyd inspect: the disk is on fire\n")


def test_foreign_text_in_a_message_does_not_reach_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, InputError("x: section \x1b[2J\nproxyd: all is well"))
    assert run("inspect", "x").err == "proxyd inspect: x: section \\x1b[2J\\nproxyd: all is well\n"


def test_an_error_of_a_write_without_a_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    assert run("inspect", "x").err == "proxyd inspect: no space left on device\n"


def test_a_command_error_without_a_kind_is_ours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, CommandError("what"))
    assert run("inspect", "x").code == ExitCode.INTERNAL


def test_what_is_unexpected_is_a_bug_of_ours_in_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError("by\nzero"))
    ran = run("inspect", "x")
    assert ran.code == 70
    assert ran.err == ("proxyd inspect: internal error, please report: ZeroDivisionError: by (--debug shows where)\n")


def test_debug_shows_where(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError("by zero"))
    ran = run("inspect", "x", "--debug")
    assert ran.code == 70
    assert ran.err.startswith("Traceback (most recent call last):\n")
    assert ran.err.endswith("proxyd inspect: internal error, please report: ZeroDivisionError: by zero\n")


def test_ctrl_c_is_130_and_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    ran = run("inspect", "x")
    assert (ran.code, ran.err) == (130, "")


def test_ctrl_c_before_anything_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("proxyd.cli.main.build_parser", interrupted)
    assert main(["inspect", "x"]) == 130


def test_sigterm_unwinds_and_is_143(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    unwound = []

    def killed(_arguments: object) -> ExitCode:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            unwound.append(True)
        return ExitCode.DONE

    monkeypatch.setattr(inspect, "run", killed)
    ran = run("inspect", "x")
    assert (ran.code, ran.err, unwound) == (143, "", [True])
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_may_run_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["explain", "TCR2_EL1", "--json"])))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.parametrize("arguments", [["explain", "TCR2_EL1"], ["inspect", "--registers", "--json", str(RETURN_PATH)]])
def test_a_reader_that_has_gone_is_141_and_quiet(arguments: list[str]) -> None:
    """Whether the output fits in a buffer and fails in the last flush, or does not."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        ran = subprocess.run([*PROXYD, *arguments], stdout=output, stderr=subprocess.PIPE, check=False)
    assert (ran.returncode, ran.stderr) == (141, b"")


def test_start_up_is_quick_because_nothing_heavy_is_imported() -> None:
    program = "import sys; import proxyd.cli.main; print(*sys.modules, sep='\\n')"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"rich", "trio", "construct", "msgspec", "prometheus_client"} & set(shown)
