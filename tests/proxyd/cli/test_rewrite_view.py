"""What ``rewrite`` says to people."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import builders as b
from tests import images
from tests.proxyd.cli.command import HOST_7_3, Run
from tests.proxyd.cli.test_offline_rewrite import ALLOWED, without_tcr2


def test_a_rewrite_says_what_was_proven(run: Run, tmp_path: Path, stream: Path, host: Path) -> None:
    ran = run("rewrite", "--destination", host, *ALLOWED, stream, tmp_path / "out")
    assert "bytes before the device part read back, identical (sha256 " in ran.err
    assert ran.err.endswith(f"{tmp_path / 'out'}: {(tmp_path / 'out').stat().st_size} bytes\n")


def test_what_was_not_proven_is_not_said(run: Run, tmp_path: Path, stream: Path, host: Path) -> None:
    ran = run("rewrite", "--destination", host, *ALLOWED, "--no-verify", stream, tmp_path / "out")
    assert "read back" not in ran.err


def test_another_architecture_is_proven_too(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "pc"
    source.write_bytes(b.stream(prologue=b.MAGIC + b.configuration(b"pc-q35-9.0", None)) + b"and more")
    ran = run("rewrite", "--destination", HOST_7_3, source, tmp_path / "out")
    assert "passed unchanged: machine 'pc-q35-9.0' is not arm" in ran.err
    assert f"{source.stat().st_size} bytes before the device part read back" in ran.err


@pytest.mark.parametrize("terminal", [False, True])
def test_a_directory_is_a_table(
    run: Run, tmp_path: Path, host: Path, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "save"
    directory.mkdir()
    (directory / "new.save").write_bytes(images.save_image("zstd", b.stream()))
    (directory / "old.save").write_bytes(images.save_image("raw", b.stream(parts=b.devices(1, without_tcr2()))))
    (directory / "part.save").write_bytes(images.image_head(0, magic=b"LibvirtQemudPart"))
    (directory / "README").write_text("no image")
    if terminal:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    ran = run("rewrite", "--destination", host, *ALLOWED, directory, tmp_path / "out")
    assert ran.code == 1
    if terminal:
        assert "[1/3] new.save\n" in ran.err
        return
    lines = [" ".join(line.split()) for line in ran.err.splitlines()]
    assert lines[1] == "Image Kind Read Changes Result"
    assert any(
        line.startswith("new.save libvirt save image, zstd ") and line.endswith(" 1 rewritten") for line in lines
    )
    assert any(line.startswith("old.save libvirt save image, raw ") and line.endswith(" 0 copied") for line in lines)
    assert "part.save - - - failed: " in ran.err.replace("  ", " ") or any("interrupted" in line for line in lines)
    assert lines[-2:] == [
        "skipped README: holds no migration stream",
        "3 images: 1 copied, 1 failed, 1 rewritten",
    ]
