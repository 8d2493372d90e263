"""What a change is worth to the guest."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """Ordered from harmless to not known."""

    PROVEN = "proven"
    """The guest cannot notice: its own registers say that it never had the feature, or the value is the
    destination's anyway."""

    NEUTRAL = "neutral"
    """Visible only in principle, and argued for with evidence."""

    LOSSY = "lossy"
    """The guest may notice, or state goes away. Refused, unless the route allows the register by name."""

    UNKNOWN = "unknown"
    """Nothing is known. Refused."""

    @property
    def rank(self) -> int:
        """0 is best."""
        return list(Verdict).index(self)

    def __lt__(self, other: str) -> bool:
        return self.rank < Verdict(other).rank

    def __le__(self, other: str) -> bool:
        return self.rank <= Verdict(other).rank

    def __gt__(self, other: str) -> bool:
        return self.rank > Verdict(other).rank

    def __ge__(self, other: str) -> bool:
        return self.rank >= Verdict(other).rank
