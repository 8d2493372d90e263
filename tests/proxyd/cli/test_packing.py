"""Every compression of libvirt's: what is packed is unpacked by its program, and what is broken says so."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest

from proxyd.cli import packing
from proxyd.cli.exit_codes import UnreachableError
from proxyd.cli.packing import UNPACK_ERRORS, Compression, UnpackError, packer, unpacker

CONTENT = bytes(range(256)) * 12345

each = pytest.mark.parametrize("kind", Compression)
by_program = pytest.mark.parametrize("kind", [Compression.ZSTD, Compression.LZOP])


def unpacked(kind: Compression, path: Path) -> bytes:
    with path.open("rb", buffering=0) as raw:
        # A program reads from the descriptor; the libraries from anything, and they would close what they are given.
        one = unpacker(kind, raw if packing.needs_program(kind) else io.BytesIO(path.read_bytes()))
        try:
            parts = []
            while part := one.read1(1000):
                parts.append(part)
            assert one.read1(1000) == b""
            return b"".join(parts)
        finally:
            one.close()


def pack(kind: Compression, path: Path) -> None:
    with path.open("wb") as output:
        output.write(b"head")
        one = packer(kind, output)
        one.write(CONTENT[:100000])
        one.write(memoryview(CONTENT)[100000:])
        one.close()
        one.close()


@each
def test_what_we_pack_the_program_unpacks(kind: Compression, tmp_path: Path) -> None:
    pack(kind, tmp_path / "packed")
    data = (tmp_path / "packed").read_bytes()
    assert data[:4] == b"head"
    assert data[4:].startswith(packing.MAGICS[kind])
    assert subprocess.run([kind, "-dc"], input=data[4:], capture_output=True, check=True).stdout == CONTENT


@each
def test_what_the_program_packs_we_unpack(kind: Compression, tmp_path: Path) -> None:
    path = tmp_path / "packed"
    path.write_bytes(subprocess.run([kind, "-c"], input=CONTENT, capture_output=True, check=True).stdout)
    assert unpacked(kind, path) == CONTENT
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises((UnpackError, *UNPACK_ERRORS)):
        unpacked(kind, path)


@each
def test_bytes_that_are_none_of_its(kind: Compression, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"something else" * 10)
    with pytest.raises((UnpackError, *UNPACK_ERRORS)) as caught:
        unpacked(kind, tmp_path / "other")
    assert str(caught.value)


@by_program
def test_a_program_says_why(kind: Compression, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"something else" * 10)
    with pytest.raises(UnpackError, match=rf"^{kind} ended with status \d+: \S+"):
        unpacked(kind, tmp_path / "other")


@by_program
def test_a_missing_program(kind: Compression, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnreachableError) as caught:
        unpacker(kind, io.BytesIO())
    assert str(caught.value) == f"the program {kind} is needed for this file, and not installed (apt install {kind})"


@by_program
def test_it_is_stopped_in_the_middle(kind: Compression, tmp_path: Path) -> None:
    path = tmp_path / "packed"
    path.write_bytes(subprocess.run([kind, "-c"], input=os.urandom(1 << 22), capture_output=True, check=True).stdout)
    with path.open("rb", buffering=0) as raw:
        one = unpacker(kind, raw)
        assert one.read1(10)
        process = one._running.process
        one.close()
        one.close()
    assert process.returncode is not None


def a_program(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = directory / "zstd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_a_packer_that_fails_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_program(tmp_path, monkeypatch, "echo No space left on device >&2; exit 1")
    with (tmp_path / "out").open("wb") as output:
        one = packer(Compression.ZSTD, output)
        with pytest.raises(UnreachableError, match="zstd ended with status 1: No space left on device"):
            one.write(CONTENT * 10)
        one.close()


def test_a_packer_that_is_content_too_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_program(tmp_path, monkeypatch, "exit 0")
    with (tmp_path / "out").open("wb") as output:
        one = packer(Compression.ZSTD, output)
        with pytest.raises(UnreachableError, match="zstd ended before it had been given everything"):
            one.write(CONTENT * 10)
        one.close()


def test_a_packer_that_fails_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_program(tmp_path, monkeypatch, "cat >/dev/null; exit 3")
    with (tmp_path / "out").open("wb") as output:
        one = packer(Compression.ZSTD, output)
        one.write(b"x")
        with pytest.raises(UnreachableError, match="zstd ended with status 3: it said nothing"):
            one.close()


@each
def test_packing_can_be_given_up(kind: Compression, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as output:
        one = packer(kind, output)
        one.write(CONTENT)
        packing.abandon(one)
        packing.abandon(one)


def test_a_disk_that_cannot_be_read_is_no_packing_error(tmp_path: Path) -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _buffer: object) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        unpacker(Compression.BZIP2, Broken()).read1(10)
