"""A command that ran, and the files that most tests run one on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tests.recorded import STREAMS

RETURN_PATH = STREAMS / "6.12-10.0.13-neoverse-n1-returnpath-smp1.bin.xz"
RETURN_PATH_4 = STREAMS / "6.12-10.0.13-neoverse-n1-returnpath-smp4.bin.xz"
FROM_7_3 = STREAMS / "7.3-10.0.13-neoverse-n1-plain-smp1.bin.xz"
HOST_7_3 = Path(__file__).parents[3] / "proxyd/demo/data/linux-7.3-neoverse-n1.json"


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed with ``--json``."""
        return msgspec.json.decode(self.out)


Run = Callable[..., Ran]
