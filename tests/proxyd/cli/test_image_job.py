"""What becomes of one image: a result in one word, or one clear error, and never half a file."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from proxyd.cli import offline_rewrite
from tests import builders as b
from tests import images
from tests.proxyd.cli.command import RETURN_PATH, Run
from tests.proxyd.cli.test_offline_rewrite import ALLOWED, without_tcr2


def test_in_place_keeps_the_owner_the_mode_and_the_attributes(
    run: Run, stream: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(stream, 64055, 64056)
    old = stream.stat()
    # Not every file system has them, and only root may set most.
    given: dict[str, bytes] = {}

    def give(_file: int, name: str, value: bytes) -> None:
        if name == "trusted.libvirt":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        given[name] = value

    monkeypatch.setattr(os, "listxattr", lambda _: ["trusted.libvirt", "security.selinux"])
    monkeypatch.setattr(os, "getxattr", lambda _, name: name.encode())
    monkeypatch.setattr(os, "setxattr", give)
    assert run("rewrite", "--destination", host, *ALLOWED, "--in-place", stream).code == 0
    new = stream.stat()
    assert new.st_ino != old.st_ino
    assert (new.st_mode, new.st_uid, new.st_gid) == (old.st_mode, old.st_uid, old.st_gid)
    assert given == {"security.selinux": b"security.selinux"}
    assert run("inspect", stream, "--json").document["vcpus"][0]["register_count"] == 2


def test_in_place_leaves_alone_what_loads_as_it_is(run: Run, tmp_path: Path, host: Path) -> None:
    path = tmp_path / "guest.save"
    path.write_bytes(images.save_image("zstd", b.stream(parts=b.devices(1, without_tcr2()))))
    before = path.stat()
    ran = run("rewrite", "--destination", host, "--in-place", path)
    assert ran.code == 0
    assert f"{path}: nothing to change, left as it is" in ran.err
    assert path.stat() == before


def test_in_place_leaves_alone_what_is_refused(run: Run, stream: Path, host: Path) -> None:
    before = (stream.read_bytes(), stream.stat())
    assert run("rewrite", "--destination", host, "--in-place", stream).code == 3
    assert (stream.read_bytes(), stream.stat()) == before


@pytest.mark.parametrize("name", ["hard", "pipe"])
def test_what_cannot_be_replaced(run: Run, stream: Path, host: Path, tmp_path: Path, name: str) -> None:
    if name == "hard":
        os.link(stream, tmp_path / "hard")
        ran = run("rewrite", "--destination", host, *ALLOWED, "--in-place", tmp_path / "hard")
        assert "has 2 names (hard links)" in ran.err
    else:
        ran = run("rewrite", "--destination", host, *ALLOWED, "--in-place", "/dev/null")
        assert ran.code == 1  # nothing is in it
        return
    assert ran.code == 2


def test_a_packed_stream_would_not_stay_packed(run: Run, host: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(RETURN_PATH, tmp_path / "packed.xz"))
    ran = run("rewrite", "--destination", host, "--in-place", path)
    assert ran.code == 1
    assert "found a stream packed by xz: it would be unpacked" in ran.err


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (images.image_head(0, magic=b"LibvirtQemudPart"), "a save image of a save that was interrupted"),
        (images.image_head(9), "6 sparse expected, found 9"),
        (images.image_head(0)[:5000], "XML and cookie of "),
        (images.image_head(0), "the stream ends inside the file header"),
        (images.image_head(1) + b"LUKS\xba\xbe", "cannot be unpacked as gzip"),
        (images.image_head(2) + b"LUKS\xba\xbe", "cannot be unpacked as bzip2"),
        (images.image_head(3) + b"LUKS\xba\xbe", "cannot be unpacked as xz"),
        (images.image_head(4) + b"LUKS\xba\xbe", "cannot be unpacked as lzop"),
        (images.image_head(5) + b"LUKS\xba\xbe", "cannot be unpacked as zstd"),
        (images.image_head(0, order=">", version=3), "version 2 expected, found 3"),
        (images.save_image("zstd", b.stream())[:-30], "cannot be unpacked as zstd"),
        (images.save_image("raw", b.stream())[:-30], "at 0x"),
        (images.mapped_ram()[: images.MIB], "the stream ends inside section 'ram'"),
        (images.mapped_ram()[5:], "not a migration stream"),
        (images.mapped_ram(b"in a file")[9:], "its bitmap expected at"),
        (b"QFI\xfb" + bytes(100), "not a migration stream"),
    ],
)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_bad_image_is_one_clear_error(
    run: Run, host: Path, tmp_path: Path, data: bytes, said: str, in_place: bool
) -> None:
    path = tmp_path / "guest.save"
    path.write_bytes(data)
    where = ("--in-place", path) if in_place else (path, tmp_path / "out")
    ran = run("rewrite", "--destination", host, *ALLOWED, *where)
    assert ran.code == 1
    assert ran.err.startswith(f"proxyd rewrite: {path}: ")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["guest.save", "host.json"]


def test_big_endian_heads_are_taken_as_libvirt_takes_them(run: Run, host: Path, tmp_path: Path) -> None:
    head = images.image_head(0, order=">")
    (tmp_path / "in").write_bytes(head + b.stream())
    assert run("rewrite", "--destination", host, *ALLOWED, tmp_path / "in", tmp_path / "out").code == 0
    assert (tmp_path / "out").read_bytes()[: len(head)] == head


@pytest.mark.parametrize("kind", ["zstd", "lzop"])
def test_a_missing_program(run: Run, host: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_bytes(images.save_image(kind, b.stream()))
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = run("rewrite", "--destination", host, *ALLOWED, tmp_path / "in", tmp_path / "out")
    assert (ran.code, ran.err) == (
        4,
        f"proxyd rewrite: the program {kind} is needed for this file, and not installed (apt install {kind})\n",
    )


@pytest.mark.parametrize("kind", ["raw", "gzip"])
def test_no_space_left(run: Run, host: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_bytes(images.save_image(kind, b.stream()))

    def full(*_: object, **_more: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(offline_rewrite, "_prove", full)
    ran = run("rewrite", "--destination", host, *ALLOWED, tmp_path / "in", tmp_path / "out")
    assert (ran.code, ran.err) == (4, f"proxyd rewrite: {tmp_path / 'out'}: no space left on device\n")
    assert sorted(os.listdir(tmp_path)) == ["host.json", "in"]


@pytest.mark.parametrize(
    ("kind", "container"),
    [("raw", "libvirt save image, raw"), ("xz", "libvirt save image, xz"), ("zstd", "libvirt save image, zstd")],
)
def test_the_report_says_what_it_was(run: Run, host: Path, tmp_path: Path, kind: str, container: str) -> None:
    (tmp_path / "in").write_bytes(images.save_image(kind, b.stream()))
    ran = run("rewrite", "--destination", host, *ALLOWED, "--json", tmp_path / "in", tmp_path / "out")
    assert msgspec.json.decode(ran.err)["container"] == container


@pytest.mark.parametrize("arguments", [[], ["out", "--in-place"]])
def test_either_an_output_or_in_place(run: Run, stream: Path, host: Path, arguments: list[str]) -> None:
    ran = run("rewrite", "--destination", host, stream, *arguments)
    assert ran.code == 2
    assert "either OUT or --in-place expected" in ran.err
