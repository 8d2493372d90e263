"""The audit log: a line for each change, with the values that may be told."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest

from formats.arm64.register_id import id_of
from proxyd.audit import AuditLog
from proxyd.config import AuditConfig, AuditValues
from proxyd.rewrite.plan import Action
from tests.proxyd.relay.stage import REMOVED

ABOUT = {"migration": "abc", "route": "lab"}
SET = dataclasses.replace(REMOVED, action=Action.SET, old=0x11, new=0x10, field="TCRX")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_change_is_told_with_its_values_and_its_migration(tmp_path: Path) -> None:
    log = AuditLog(AuditConfig(), tmp_path / "audit")
    log.changes(ABOUT, [SET, REMOVED])
    log.event(ABOUT, "end", outcome="completed")
    log.close()
    change, removal, end = lines(tmp_path / "audit")
    assert change == {
        "version": 1, "migration": "abc", "route": "lab", "event": "change", "vcpu": 0,
        "register": "0x603000000013c103", "name": "TCR2_EL1", "field": "TCRX", "action": "set",
        "old": "0x11", "new": "0x10", "verdict": "proven", "reason": "the guest never had it", "rule": "builtin",
        "allowed": False,
    }  # fmt: skip
    assert (removal["action"], removal["old"], removal["new"]) == ("remove", "0x0", None)
    assert end == {"version": 1, "migration": "abc", "route": "lab", "event": "end", "outcome": "completed"}
    assert stat.S_IMODE(os.stat(tmp_path / "audit").st_mode) == 0o600


def test_values_can_be_kept_out(tmp_path: Path) -> None:
    log = AuditLog(AuditConfig(values=AuditValues.REDACTED), tmp_path / "audit")
    log.changes(ABOUT, [SET])
    log.close()
    (change,) = lines(tmp_path / "audit")
    assert (change["old"], change["new"], change["name"]) == ("redacted", "redacted", "TCR2_EL1")


@pytest.mark.parametrize("name", ["APIAKEYLO_EL1", "APGAKEYHI_EL1", "TPIDR_EL0"])
def test_secrets_are_kept_out_whatever_is_configured(name: str, tmp_path: Path) -> None:
    log = AuditLog(AuditConfig(), tmp_path / "audit")
    log.changes(ABOUT, [dataclasses.replace(SET, register=id_of(name))])
    log.close()
    (change,) = lines(tmp_path / "audit")
    assert (change["name"], change["old"]) == (name, "redacted")


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text('{"before": 1}\n')
    for _ in range(2):
        log = AuditLog(AuditConfig(), tmp_path / "audit")
        log.event(ABOUT, "end")
        log.close()
    assert len(lines(tmp_path / "audit")) == 3


def test_a_line_that_is_cut_is_an_error() -> None:
    log = AuditLog(AuditConfig(), Path("/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        log.event(ABOUT, "end")
    log.close()


def test_a_short_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(AuditConfig(), tmp_path / "audit")
    monkeypatch.setattr(os, "write", lambda _file, data: len(data) - 1)
    with pytest.raises(OSError, match="expected to be written"):
        log.event(ABOUT, "end")
    log.close()
