"""The examples in docs/commands.md: what stands there, and what the commands print now.

python -m tests.proxyd.cli.examples        brings the page up to date
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "commands.md"

_EXAMPLE = re.compile(r"^```console\n\$ (.*)\n((?:.*\n)*?)```$", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A command, and what the page says that it prints."""

    command: str
    shown: str


def examples() -> list[Example]:
    """All of the page's."""
    return [Example(*match.groups()) for match in _EXAMPLE.finditer(PAGE.read_text())]


def printed(command: str) -> str:
    """What the command prints, on either stream. How long something took is always 0.5 s."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "COLUMNS": "120", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return re.sub(r"\b\d+\.\d s$", "0.5 s", ran.stdout, flags=re.MULTILINE)


def main() -> None:
    """Write what the commands print into the page."""
    PAGE.write_text(_EXAMPLE.sub(lambda match: f"```console\n$ {match[1]}\n{printed(match[1])}```", PAGE.read_text()))


if __name__ == "__main__":
    main()
