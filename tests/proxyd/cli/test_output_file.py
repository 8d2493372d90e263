"""An output is there whole or not at all, and never the input."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from proxyd.cli.exit_codes import UsageError
from proxyd.cli.output_file import open_output
from proxyd.cli.stream_file import FileDetails

PIPE = FileDetails(None, None, (0, 0))


def of(path: Path) -> FileDetails:
    with path.open("rb") as file:
        return FileDetails.of(file.fileno())


def test_it_appears_when_everything_is_written(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with open_output(str(target), PIPE) as output:
        output.write(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["out"]
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"before")

    def write_half() -> None:
        with open_output(str(target), PIPE) as output:
            output.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["out"]


def test_it_has_the_permissions_of_the_input(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"x")
    source.chmod(0o644)
    with open_output(str(target), of(source)):
        pass
    assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["in", "link", "./in", "hard"])
def test_it_is_never_the_input(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"x")
    (tmp_path / "link").symlink_to("in")
    os.link(source, tmp_path / "hard")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught, open_output(name, of(source)):
        pass
    assert str(caught.value) == f"{name} is the input itself (--in-place replaces it)"
    assert source.read_bytes() == b"x"


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"before")
    (tmp_path / "link").symlink_to("real")
    with open_output(str(tmp_path / "link"), PIPE) as output:
        output.write(b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"after"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_output(str(tmp_path / "no" / "out"), PIPE):
        pass


def test_a_directory_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), open_output(str(tmp_path), PIPE):
        pass


def test_a_pipe_gets_the_bytes_as_they_come(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    received: list[bytes] = []
    thread = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_bytes()))
    thread.start()
    with open_output(str(tmp_path / "pipe"), PIPE) as output:
        output.write(b"through")
    thread.join()
    assert received == [b"through"]


def test_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with open_output("-", PIPE) as output:
        output.write(b"\x00\xff")
    assert capfdbinary.readouterr().out == b"\x00\xff"


@pytest.mark.parametrize("output", ["/dev/full", "directory/that/is/not", "-"])
def test_what_cannot_be_written_is_named_as_it_was_given(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def write() -> None:
        with open_output(output, PIPE) as file:
            file.write(b"x")
            if output == "-":
                raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No (space|such file)") as caught:
        write()
    assert caught.value.filename == ("standard output" if output == "-" else output)


def test_an_error_that_names_another_file_or_none_is_left_as_it_is(tmp_path: Path) -> None:
    for error in (OSError(errno.EIO, "Input/output error", "the input"), OSError("the disk is on fire")):
        with pytest.raises(OSError, match=r"error|fire") as caught, open_output(str(tmp_path / "out"), PIPE):
            raise error
        assert caught.value is error


@pytest.mark.parametrize("source", [PIPE, FileDetails(1, 0o600, (0, 0))])
def test_only_the_input_itself_is_replaced_in_place(tmp_path: Path, source: FileDetails) -> None:
    (tmp_path / "other").write_bytes(b"before")
    with (
        pytest.raises(UsageError, match="a regular file expected, to replace it in place"),
        open_output(str(tmp_path / "other"), source, in_place=True),
    ):
        pass
    assert (tmp_path / "other").read_bytes() == b"before"
