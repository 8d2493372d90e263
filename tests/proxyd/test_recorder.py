"""Recordings on disk: whole, private, and bounded."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from proxyd.config import RecorderConfig
from proxyd.recorder import Recorder
from proxyd.rewrite.recording import Recorded
from proxyd.rewrite.rewriter import StreamRewriter
from tests import builders as b
from tests.proxyd.rewrite.test_recording import a_policy, recorded


def one(number: int = 0) -> Recorded:
    rewriter = StreamRewriter(a_policy())
    rewriter.feed(b.stream())
    found = recorded(rewriter)
    facts = msgspec.structs.replace(found.facts, time=f"2026-01-01T00:00:{number:02}.000Z", migration=f"m{number}")
    return Recorded(facts, found.before, found.after)


def names(directory: Path) -> list[str]:
    return sorted(path.name.partition(".000Z-")[2] for path in directory.iterdir())


def test_a_recording_is_there_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    Recorder(RecorderConfig(), directory).write(one())
    (path,) = directory.iterdir()
    assert path.name == "2026-01-01T000000.000Z-m0.proxyd-recording"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert Recorded.parse(path.read_bytes()).before == one().before


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    recorder = Recorder(RecorderConfig(max_recordings=3), tmp_path)
    for number in range(5):
        recorder.write(one(number))
    assert names(tmp_path) == [f"m{number}.proxyd-recording" for number in (2, 3, 4)]


def test_the_oldest_go_when_they_are_too_large(tmp_path: Path) -> None:
    size = len(one().to_bytes())
    recorder = Recorder(RecorderConfig(max_bytes=2 * size + 100), tmp_path)
    for number in range(4):
        recorder.write(one(number))
    assert names(tmp_path) == ["m2.proxyd-recording", "m3.proxyd-recording"]


def test_one_that_is_larger_than_all_may_be_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"at most 100 bytes expected \(recorder.max_bytes\)"):
        Recorder(RecorderConfig(max_bytes=100), tmp_path).write(one())
    assert names(tmp_path) == []


def test_nothing_is_left_of_one_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fails)
    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="No space left"):
        Recorder(RecorderConfig(), tmp_path).write(one())
    assert list(tmp_path.iterdir()) == []
