"""All images of a directory: each by itself, the worst decides, and a second run finds what the first has done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import builders as b
from tests import images
from tests.proxyd.cli.command import Ran, Run
from tests.proxyd.cli.test_offline_rewrite import ALLOWED, content, without_tcr2

GOOD = {"a.save": "zstd", "b.save": "raw", "c.save": "gzip"}


@pytest.fixture
def guests(tmp_path: Path) -> Path:
    """A directory with three images, a mapped-ram file, and what is none."""
    directory = tmp_path / "save"
    directory.mkdir()
    for name, kind in GOOD.items():
        (directory / name).write_bytes(images.save_image(kind, b.stream()))
    (directory / "d.mapped").write_bytes(images.mapped_ram())
    (directory / "notes.txt").write_text("bring milk")
    (directory / ".a.save.xyz.partial").write_bytes(b"QEVM")
    (directory / "below").mkdir()
    return directory


def rewrite(run: Run, host: Path, *arguments: object) -> tuple[Ran, Any]:
    ran = run("rewrite", "--destination", host, *ALLOWED, "--json", *arguments)
    return ran, msgspec.json.decode(ran.err)


def results(document: Any) -> dict[str, str]:
    return {one["name"]: one["result"] for one in document["files"]}


def everything(directory: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in directory.iterdir()}


ALL = [*GOOD, "d.mapped"]


def test_all_images_and_nothing_else(run: Run, host: Path, guests: Path, tmp_path: Path) -> None:
    ran, document = rewrite(run, host, guests, tmp_path / "out")
    assert ran.code == 0
    assert results(document) == dict.fromkeys(ALL, "rewritten")
    assert document["summary"] == {"rewritten": 4}
    assert {one["name"] for one in document["skipped"]} == {"notes.txt", ".a.save.xyz.partial", "below"}
    assert all(one["report"]["identity"]["identical"] for one in document["files"])
    assert sorted(os.listdir(tmp_path / "out")) == ALL
    wanted = b.stream(parts=b.devices(1, without_tcr2()))
    for name, kind in GOOD.items():
        assert content(kind, (tmp_path / "out" / name).read_bytes()) == wanted


def test_a_second_run_finds_what_is_there(run: Run, host: Path, guests: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rewrite(run, host, guests, out)
    (out / "b.save").unlink()
    before = everything(out)
    ran, document = rewrite(run, host, guests, out)
    assert ran.code == 0
    assert results(document) == {**dict.fromkeys(ALL, "there-already"), "b.save": "rewritten"}
    after = everything(out)
    del after["b.save"]
    assert after == before


@pytest.mark.parametrize("at", [5, 500, 70000, -1, None])
@pytest.mark.parametrize("name", ["b.save", "d.mapped", "a.save"])
def test_what_is_there_and_differs_is_written_again(
    run: Run, host: Path, guests: Path, tmp_path: Path, name: str, at: int | None
) -> None:
    out = tmp_path / "out"
    rewrite(run, host, guests, out)
    wanted = (out / name).read_bytes()
    wrong = bytearray(wanted)
    if at is None:
        wrong += b"more"
    else:
        wrong[at % len(wrong)] ^= 1
    (out / name).write_bytes(wrong)
    ran, document = rewrite(run, host, guests, out)
    assert ran.code == 0
    expected = dict.fromkeys(ALL, "there-already")
    # A program may pass over bytes behind its data; then the stream is the one that it should be.
    if not (name == "a.save" and results(document)[name] == "there-already"):
        expected[name] = "rewritten"
        assert (out / name).read_bytes() == wanted
    assert results(document) == expected


@pytest.mark.parametrize(
    "wrong", [b"", b"QEVM", b"something else", images.save_image("raw", b.stream()), images.image_head(9)]
)
def test_another_file_in_its_place(run: Run, host: Path, guests: Path, tmp_path: Path, wrong: bytes) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "d.mapped").write_bytes(wrong)
    (out / "b.save").write_bytes(wrong)
    _, document = rewrite(run, host, guests, out)
    assert results(document) == dict.fromkeys(ALL, "rewritten")


def test_a_page_that_differs_is_found(run: Run, host: Path, guests: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rewrite(run, host, guests, out)
    with (out / "d.mapped").open("r+b") as file:
        file.seek(images.MIB + 17)
        file.write(b"!")
    _, document = rewrite(run, host, guests, out)
    assert results(document)["d.mapped"] == "rewritten"


def test_in_place_and_again(run: Run, host: Path, guests: Path) -> None:
    ran, document = rewrite(run, host, "--in-place", guests)
    assert ran.code == 0
    assert results(document) == dict.fromkeys(ALL, "rewritten")
    before = everything(guests)
    _, document = rewrite(run, host, "--in-place", guests)
    assert results(document) == dict.fromkeys(ALL, "unchanged")
    assert everything(guests) == before


def test_one_that_is_bad_does_not_stop_the_others_and_the_worst_decides(
    run: Run, host: Path, guests: Path, tmp_path: Path
) -> None:
    (guests / "bad.save").write_bytes(images.image_head(0, magic=b"LibvirtQemudPart"))
    ran, document = rewrite(run, host, guests, tmp_path / "out")
    assert (ran.code, document["exit_code"]) == (1, 1)
    assert results(document) == {**dict.fromkeys(ALL, "rewritten"), "bad.save": "failed"}
    (bad,) = (one for one in document["files"] if one["name"] == "bad.save")
    assert "a save that was interrupted" in bad["error"]
    assert sorted(os.listdir(tmp_path / "out")) == ALL


def test_refused_is_less_than_broken(run: Run, host: Path, guests: Path, tmp_path: Path) -> None:
    ran = run("rewrite", "--destination", host, guests, tmp_path / "out", "--report", tmp_path / "report.json")
    assert ran.code == 3
    assert "4 images: 4 refused\n" in ran.err
    assert "skipped notes.txt: holds no migration stream" in ran.err
    document = msgspec.json.decode((tmp_path / "report.json").read_bytes())
    assert document["files"][0]["report"]["refusals"]
    assert os.listdir(tmp_path / "out") == []


def test_what_cannot_be_read_is_4(
    run: Run, host: Path, guests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def unreadable(self: Path, *arguments: Any, **more: Any) -> Any:
        if self.name == "a.save":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", unreadable)
    monkeypatch.setenv("PATH", str(tmp_path))  # so there is no zstd either
    ran, document = rewrite(run, host, guests, tmp_path / "out")
    assert ran.code == 4
    assert results(document)["a.save"] == "failed"


def test_an_output_that_cannot_be_written_is_4(run: Run, host: Path, guests: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "b.save").mkdir(parents=True)
    ran, document = rewrite(run, host, guests, tmp_path / "out")
    assert ran.code == 4
    assert results(document) == {**dict.fromkeys(ALL, "rewritten"), "b.save": "failed"}


def test_an_empty_directory(run: Run, host: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = run("rewrite", "--destination", host, "--in-place", tmp_path / "empty")
    assert (ran.code, ran.err) == (0, "0 images: none\n")


def test_into_itself(run: Run, host: Path, guests: Path) -> None:
    ran = run("rewrite", "--destination", host, guests, guests)
    assert ran.code == 2
    assert "is the input itself (--in-place replaces its images)" in ran.err
