"""The host descriptions in this directory are what was read on the kernels, and no more."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from tests import recorded
from tests.hosts import from_reglist

LISTS = sorted((Path(__file__).parents[1] / "reglists").glob("*.json"))


def test_there_are_lists() -> None:
    assert len(LISTS) == 3


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_the_description_is_the_list(path: Path) -> None:
    listed = json.loads(path.read_bytes())
    made = from_reglist.description_of(listed).to_json()
    assert made == recorded.host_json(listed["host"]["kernel"], listed["host"]["cpu"])


def test_one_file_for_each_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_reglist, "HERE", tmp_path)
    from_reglist.main([str(path) for path in LISTS])
    written = {path.name: lzma.decompress(path.read_bytes()) for path in tmp_path.iterdir()}
    assert written == {
        f"{kernel}-neoverse-n1.json.xz": recorded.host_json(kernel, "neoverse-n1") for kernel in ("6.12", "6.18", "7.3")
    }


def test_a_kernel_without_masks() -> None:
    listed = json.loads(LISTS[0].read_bytes()) | {"writable_masks": None}
    assert from_reglist.description_of(listed).writable_masks is None
