"""``proxyd serve`` is the daemon in a process; what the daemon does: tests/proxyd/test_daemon.py."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.proxyd.cli.command import Run

CONFIG = """
[metrics]
listen = "127.0.0.1:0"
[[route]]
name = "r"
listen = "127.0.0.1:0"
destination = "127.0.0.1:1"
"""


def test_the_default_file_is_that_of_the_package(run: Run) -> None:
    assert "/etc/proxyd/config.toml" in run("serve", "--help").out


def test_a_missing_file_is_4(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "proxyd.cli", "serve", "--config", str(tmp_path / "missing.toml")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (4, "")
    assert ran.stderr == (
        f"proxyd: {tmp_path}/missing.toml: cannot read the configuration: No such file or directory\n"
    )


def test_a_bad_file_is_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("nonsense")
    assert run("serve", "--config", tmp_path / "bad.toml").code == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_it_and_is_0(tmp_path: Path, number: signal.Signals) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    with subprocess.Popen(
        [sys.executable, "-m", "proxyd.cli", "serve", "--config", str(config)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "serving metrics" in line:
                break
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 0
    assert "drained" in rest
