"""Reading inputs: files and pipes, packed or not."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proxyd.cli.exit_codes import InputError
from proxyd.cli.stream_file import CHUNK_BYTES, Compression, open_stream
from tests import images
from tests.proxyd.cli.test_terminal import Screen

CONTENT = bytes(range(256)) * 12345
PACKED: dict[Compression | None, Callable[[bytes], bytes]] = {
    None: bytes,
    Compression.XZ: lzma.compress,
    Compression.GZIP: gzip.compress,
}


@pytest.mark.parametrize("compression", PACKED)
def test_a_file_is_read_in_chunks_and_unpacked_on_the_way(tmp_path: Path, compression: Compression | None) -> None:
    path = tmp_path / "file"
    path.write_bytes(PACKED[compression](CONTENT))
    path.chmod(0o640)
    with open_stream(str(path)) as file:
        chunks = list(file.chunks())
    assert b"".join(chunks) == CONTENT
    assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)
    assert (file.name, file.compression) == (str(path), compression)
    assert file.details.size == path.stat().st_size
    assert file.details.permissions == 0o640
    assert file.details.identity == (path.stat().st_dev, path.stat().st_ino)


@pytest.mark.parametrize("size", [0, 1, 5, 6, 7])
def test_short_files(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short"
    path.write_bytes(CONTENT[:size])
    with open_stream(str(path)) as file:
        assert b"".join(file.chunks()) == CONTENT[:size]
        assert file.compression is None


def test_the_first_chunk_can_be_looked_at_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with open_stream(str(path)) as file:
        first = file.first()
        assert first
        assert CONTENT.startswith(first)
        assert b"".join(file.chunks()) == CONTENT


def test_an_empty_file_has_an_empty_first_chunk(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with open_stream(str(tmp_path / "empty")) as file:
        assert (file.first(), list(file.chunks())) == (b"", [])


@pytest.mark.parametrize("compression", PACKED)
def test_standard_input_may_come_byte_by_byte(monkeypatch: pytest.MonkeyPatch, compression: Compression | None) -> None:
    packed = PACKED[compression](CONTENT)
    reader, writer = os.pipe()
    before = os.dup(0)
    os.dup2(reader, 0)
    os.close(reader)

    def write() -> None:
        with open(writer, "wb", buffering=0) as pipe:
            pipe.writelines(packed[i : i + 1] for i in range(10))
            rest = memoryview(packed)[10:]
            while rest:
                rest = rest[pipe.write(rest) :]

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with open_stream("-") as file:
            assert file.name == "standard input"
            assert (file.details.size, file.details.permissions) == (None, None)
            assert b"".join(file.chunks()) == CONTENT
        os.fstat(0)  # still open: it is not ours to close
    finally:
        os.dup2(before, 0)
        os.close(before)
        thread.join()


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (lzma.compress(CONTENT)[:-20], "cannot be unpacked as xz: Compressed file ended before"),
        (lzma.compress(CONTENT)[:30] + b"garbage" * 9, "cannot be unpacked as xz: "),
        (gzip.compress(CONTENT)[:-20], "cannot be unpacked as gzip: Compressed file ended before"),
        (gzip.compress(CONTENT)[:30] + b"\xff" * 99, "cannot be unpacked as gzip: "),
        (gzip.compress(CONTENT)[:-1] + b"\x7f", "cannot be unpacked as gzip: "),
    ],
)
def test_what_cannot_be_unpacked(tmp_path: Path, packed: bytes, says: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(packed)
    with pytest.raises(InputError) as caught, open_stream(str(path)) as file:
        list(file.chunks())
    assert str(caught.value).startswith(f"{path}: {says}")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_stream(str(tmp_path / "missing")):
        pass


@pytest.mark.parametrize("compression", PACKED)
def test_progress_counts_what_is_read_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: Compression | None
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.setattr("proxyd.cli.terminal.Progress.advance_to", lambda _, done: seen.append(done))
    path = tmp_path / "file"
    path.write_bytes(PACKED[compression](CONTENT))
    with open_stream(str(path)) as file:
        list(file.chunks())
    assert seen == sorted(seen)
    assert seen[-1] == path.stat().st_size


def test_progress_of_a_pipe_counts_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[int] = []
    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.setattr("proxyd.cli.terminal.Progress.advance_to", lambda _, done: seen.append(done))
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(CONTENT,))
    thread.start()
    with open_stream(str(tmp_path / "pipe")) as file:
        list(file.chunks())
    thread.join()
    assert seen[-1] == len(CONTENT)


def test_a_buffer_of_any_shape_can_be_filled(tmp_path: Path) -> None:
    """BufferedReader hands out what it likes; the bytes that were looked at first must not get lost."""
    from proxyd.cli.stream_file import _Joined

    path = tmp_path / "file"
    path.write_bytes(b"rest")
    with path.open("rb", buffering=0) as raw:
        joined = _Joined(b"head", raw)
        assert isinstance(joined, io.RawIOBase)
        assert joined.readable()
        assert [joined.read(3), joined.read(3), joined.read(9), joined.read(9)] == [b"hea", b"d", b"rest", b""]


def test_a_read_that_fails_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)

    def fail(_size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with open_stream(str(path)) as file:
        monkeypatch.setattr(file, "_read1", fail)
        with pytest.raises(OSError, match="Input/output error") as caught:
            file.read()
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("kind", images.FORMATS)
def test_a_save_image_is_read_as_the_stream_in_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "guest.save"
    path.write_bytes(images.save_image(kind, CONTENT))
    with open_stream(str(path)) as file:
        assert b"".join(file.chunks()) == CONTENT
        assert file.image is not None
        assert file.image.format.name.lower() == kind
        assert file.head == images.image_head(images.FORMATS[kind][0])
        assert file.seekable_from == (len(file.head) if kind == "raw" else None)
        assert file.unchanged()


@contextmanager
def on_standard_input(data: bytes) -> Iterator[None]:
    """Make ``data`` what comes on standard input, by a pipe."""
    reader, writer = os.pipe()

    def write() -> None:
        with suppress(BrokenPipeError), os.fdopen(writer, "wb") as pipe:
            pipe.write(data)

    before = os.dup(0)
    os.dup2(reader, 0)
    os.close(reader)
    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)
        thread.join()


@pytest.mark.parametrize("kind", images.FORMATS)
def test_a_save_image_out_of_a_pipe(kind: str) -> None:
    with on_standard_input(images.save_image(kind, CONTENT)), open_stream("-") as file:
        assert b"".join(file.chunks()) == CONTENT
        assert file.seekable_from is None


@pytest.mark.parametrize("kind", ["zstd", "lzop"])
def test_what_only_a_program_unpacks_cannot_be_looked_at_in_a_pipe(kind: str) -> None:
    with (
        on_standard_input(images.FORMATS[kind][1](CONTENT)),
        pytest.raises(InputError, match=f"packed by {kind}: a file expected, found a pipe"),
        open_stream("-"),
    ):
        pass


@pytest.mark.parametrize("kind", ["bzip2", "zstd", "lzop"])
def test_a_packed_stream_without_a_head(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "packed"
    path.write_bytes(images.FORMATS[kind][1](CONTENT))
    with open_stream(str(path)) as file:
        assert file.compression == kind
        assert b"".join(file.chunks()) == CONTENT


def test_going_elsewhere_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with open_stream(str(path)) as file:
        file.read()
        file.go_to(CHUNK_BYTES)
        file.go_to(len(CONTENT) - 5)
        assert file.read() == CONTENT[-5:]
        path.write_bytes(CONTENT + b"!")
        assert not file.unchanged()
