"""The cache's promises: entries appear whole or not at all, once, whoever asks."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.debian.cache import cache_directory, entry


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROXYD_CACHE", str(tmp_path))
    return tmp_path


def write(directory: Path) -> None:
    (directory / "file").write_text("contents")


def test_directory_is_taken_from_the_environment_or_below_home(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_directory() == cache
    monkeypatch.delenv("PROXYD_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_directory() == Path("/home/somebody/.cache/proxyd-tests")


def test_entry_is_made_once(cache: Path) -> None:
    assert entry("kind/name", write) == cache / "kind" / "name"

    def again(directory: Path) -> None:
        raise AssertionError("filled twice")

    assert (entry("kind/name", again) / "file").read_text() == "contents"


def test_entry_that_could_not_be_made_is_not_there_and_is_tried_again(cache: Path) -> None:
    def broken(directory: Path) -> None:
        (directory / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        entry("kind/name", broken)
    assert not (cache / "kind" / "name").exists()
    assert [path.name for path in entry("kind/name", write).iterdir()] == ["file"]


CONTENDER = """
import os
from tests.debian.cache import entry

def fill(directory):
    (directory / "owner").write_text(str(os.getpid()))
    print("filled")

entry("kind/name", fill)
"""


def test_processes_at_the_same_time_make_it_once(cache: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(4)
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sorted(said) == ["", "", "", "filled\n"]
