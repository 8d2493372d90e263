"""Copies keep holes, and the digest does not see them."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from proxyd.cli import sparse_copy
from proxyd.cli.sparse_copy import BLOCK_BYTES, clone, copy_range, data_extents, sparse_digest

MIB = 1 << 20
DATA = {0: b"head", 3 * MIB + 100: b"x" * 5000, 9 * MIB: b"y" * (2 * MIB)}
SIZE = 16 * MIB


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for offset, data in DATA.items():
            file.seek(offset)
            file.write(data)
        file.truncate(SIZE)
    return path


def copied(source: Path, target: Path, start: int, stop: int) -> bytes:
    with source.open("rb") as one, target.open("w+b") as other:
        copy_range(one.fileno(), other.fileno(), start, stop)
        other.truncate(SIZE)
    return target.read_bytes()


def refuse(*_: object) -> int:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_copy_has_the_bytes_and_the_holes(
    sparse: Path, tmp_path: Path, by_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_hand:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    assert copied(sparse, tmp_path / "copy", 0, SIZE) == sparse.read_bytes()
    assert (tmp_path / "copy").stat().st_blocks == sparse.stat().st_blocks


@pytest.mark.parametrize(("start", "stop"), [(2, 4), (0, 3 * MIB + 200), (3 * MIB + 101, 10 * MIB + 7), (5, 5)])
def test_a_part_of_it(sparse: Path, tmp_path: Path, start: int, stop: int) -> None:
    data = copied(sparse, tmp_path / "copy", start, stop)
    assert data == bytes(start) + sparse.read_bytes()[start:stop] + bytes(SIZE - stop)


def test_an_error_that_is_not_about_copying(sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="No space left"):
        copied(sparse, tmp_path / "copy", 0, SIZE)


def test_a_file_that_ends_too_early(sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    assert copied(sparse, tmp_path / "copy", 0, SIZE) == bytes(SIZE)


def test_extents(sparse: Path) -> None:
    with sparse.open("rb") as file:
        found = list(data_extents(file.fileno(), 0, SIZE))
        assert all(any(first <= offset < last for first, last in found) for offset in DATA)
        assert sum(last - first for first, last in found) < 3 * MIB
        assert list(data_extents(file.fileno(), 12 * MIB, SIZE)) == []
        assert list(data_extents(file.fileno(), 4 * MIB, 5 * MIB)) == []


def test_an_error_while_looking_for_data(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="Illegal seek"):
        list(data_extents(reader, 0, 10))
    os.close(reader)
    os.close(writer)


def digest(path: Path, stop: int = SIZE) -> str:
    with path.open("rb") as file:
        return sparse_digest(file.fileno(), stop)


def test_the_digest_does_not_see_holes(sparse: Path, tmp_path: Path) -> None:
    written = tmp_path / "written"
    written.write_bytes(sparse.read_bytes())
    assert written.stat().st_blocks > sparse.stat().st_blocks
    assert digest(written) == digest(sparse)


@pytest.mark.parametrize("at", [0, 3 * MIB + 5099, 4 * MIB, 11 * MIB - 1, 11 * MIB, SIZE - 1])
def test_the_digest_sees_every_byte(sparse: Path, at: int) -> None:
    before = digest(sparse)
    with sparse.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 1]))
    assert digest(sparse) != before
    assert digest(sparse, at // BLOCK_BYTES * BLOCK_BYTES) == digest(sparse, at // BLOCK_BYTES * BLOCK_BYTES)


def test_the_digest_stops_in_the_middle_of_a_block(sparse: Path) -> None:
    stop = 9 * MIB + 123457
    before = digest(sparse, stop)
    with sparse.open("r+b") as file:
        file.seek(stop)
        file.write(b"z")
    assert digest(sparse, stop) == before
    assert digest(sparse, stop + 1) != before


def test_a_file_that_becomes_shorter_under_the_digest(sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    with pytest.raises(OSError, match="became shorter"):
        digest(sparse)


def test_sharing_blocks_is_asked_for_and_may_be_refused(sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(fcntl, "ioctl", lambda *call: asked.append(call))
    assert clone(3, 4)
    assert asked == [(4, sparse_copy.FICLONE, 3)]
    monkeypatch.setattr(fcntl, "ioctl", refuse)
    assert not clone(3, 4)
