"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.arm64.cpreg_list import CpregList
from proxyd.cli.main import main
from proxyd.rewrite.host import HostDescription
from tests import builders as b
from tests.proxyd.cli.command import Ran, Run


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process; arguments as they stand on the command line."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Ran:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leave:
            code = int(leave.code or 0)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """A small built stream with two vCPUs of three registers: MIDR_EL1, TCR2_EL1 and TIMER_CNT."""
    path = tmp_path / "small.bin"
    path.write_bytes(b.stream(parts=b.devices(2)))
    return path


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host that lists what the small stream has, but for TCR2_EL1."""
    path = tmp_path / "host.json"
    registers = {key: value for key, value in b.SOME_REGISTERS.items() if key != 0x603000000013C103}
    path.write_bytes(HostDescription("new", CpregList(registers), kernel="7.3").to_json())
    return path
