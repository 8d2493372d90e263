"""The layout shows the architecture: every source file has its test file, and stays readable in one sitting."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path.relative_to(ROOT)
    for package in ("formats", "proxyd")
    for path in (ROOT / package).rglob("*.py")
    if path.stat().st_size
)
VAGUE = {"utils", "util", "helpers", "helper", "manager", "handler", "common", "misc"}

# Tested through the files that use them: packages' front doors, and the module that `python -m` runs.
WITHOUT_OWN_TEST = {"__init__.py", "__main__.py"}


def test_there_are_sources() -> None:
    assert len(SOURCES) > 30


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_each_source_file(source: Path) -> None:
    text = (ROOT / source).read_text()
    assert text.startswith('"""'), "a module says in its first line what it is"
    assert text.count("\n") <= 400, "modules of 100 to 350 lines"
    assert source.stem not in VAGUE
    if source.name not in WITHOUT_OWN_TEST:
        assert (ROOT / "tests" / source.parent / f"test_{source.name}").is_file()
