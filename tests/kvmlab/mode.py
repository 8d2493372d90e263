"""How a guest migrates: what both QEMUs are told before, and what the source is told during it."""

from enum import StrEnum
from typing import Any


class Mode(StrEnum):
    """A way to migrate."""

    PRECOPY = "precopy"
    MULTIFD = "multifd"
    POSTCOPY = "postcopy"

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Capabilities that both ends turn on for it, beside ``return-path``."""
        return {Mode.MULTIFD: ("multifd",), Mode.POSTCOPY: ("postcopy-ram",)}.get(self, ())

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters that both ends set for it."""
        return {"multifd_channels": 2} if self is Mode.MULTIFD else {}

    @property
    def downtime_limit_ms(self) -> int:
        """The source's downtime-limit: an emulated host takes seconds over what a real one does at once."""
        return 1 if self is Mode.POSTCOPY else 20_000

    @property
    def bandwidth(self) -> int:
        """The source's max-bandwidth in bytes a second; in postcopy there is to be memory left when it switches."""
        return 1 << 20 if self is Mode.POSTCOPY else 1 << 30
