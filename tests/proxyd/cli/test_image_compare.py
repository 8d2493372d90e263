"""An output is taken for done only if it is what would be written, to the last byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.cli.exit_codes import InputError
from proxyd.cli.image_compare import same_already
from proxyd.cli.offline_rewrite import Reading
from proxyd.cli.stream_file import open_stream
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.policy import ReturnPathPolicy, RewritePolicy
from tests import builders as b
from tests import images

# Nothing is rewritten: what would be written is what is read.
POLICY = RewritePolicy(None, Knowledge.builtin(), return_path=ReturnPathPolicy.OPTIONAL)


def same(source: Path, there: Path) -> bool:
    with open_stream(str(source)) as file:
        return same_already(Reading(file, POLICY), str(there))


@pytest.fixture(params=["stream", "raw", "xz", "zstd", "mapped-ram"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "in"
    data = {"stream": b.stream(), "mapped-ram": images.mapped_ram()}
    path.write_bytes(data.get(request.param) or images.save_image(request.param, b.stream()))
    return path


def test_a_copy_is_the_same(image: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(image.read_bytes())
    assert same(image, tmp_path / "out")


@pytest.mark.parametrize("keep", [0, 1, 50, 3000, -1])
def test_a_part_is_not(image: Path, tmp_path: Path, keep: int) -> None:
    (tmp_path / "out").write_bytes(image.read_bytes()[:keep])
    assert not same(image, tmp_path / "out")


def test_more_is_not(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b.stream())
    (tmp_path / "out").write_bytes(b.stream() + b"!")
    assert not same(tmp_path / "in", tmp_path / "out")


def test_the_same_stream_in_another_container_is_not(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(images.save_image("raw", b.stream()))
    (tmp_path / "out").write_bytes(images.save_image("gzip", b.stream()))
    assert not same(tmp_path / "in", tmp_path / "out")


def test_a_mapped_ram_file_and_what_has_no_offsets(tmp_path: Path) -> None:
    """What is packed begins with the same bytes, and cannot be jumped in."""
    (tmp_path / "in").write_bytes(images.mapped_ram())
    (tmp_path / "out").write_bytes(images.FORMATS["gzip"][1](images.mapped_ram()))
    assert not same(tmp_path / "in", tmp_path / "out")


def test_a_page_that_differs(tmp_path: Path) -> None:
    data = bytearray(images.mapped_ram())
    (tmp_path / "in").write_bytes(data)
    data[images.MIB + 1] ^= 1
    (tmp_path / "out").write_bytes(data)
    assert not same(tmp_path / "in", tmp_path / "out")


def test_a_bad_output_is_only_not_the_same_and_a_bad_input_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b.stream())
    (tmp_path / "out").write_bytes(images.image_head(9))
    assert not same(tmp_path / "in", tmp_path / "out")


def test_an_input_that_changes_meanwhile_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b.stream())
    (tmp_path / "out").write_bytes(b.stream())
    with open_stream(str(source)) as file:
        source.write_bytes(b.stream() + b"!")
        reading = Reading(file, POLICY)
        (tmp_path / "out").write_bytes(images.image_head(9))
        with pytest.raises(InputError):
            same_already(reading, str(tmp_path / "out"))
