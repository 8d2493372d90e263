"""How much device state all migrations together may hold back, and which of them goes when it is too much.

``limits.device_state_bytes`` bounds one; a thousand sources that each send all they may are still more than a machine
has. Running out of memory would cost every migration, those past their commit point included. So when it is too much,
the source that holds the most loses its largest migration: before the commit point, where the guest resumes.
"""

from __future__ import annotations

from collections.abc import Callable

from proxyd.relay.outcome import Ending, Outcome

Abandon = Callable[[Ending], bool]


class HeldMemory:
    """What is held, by origin and migration.

    :param limit: bytes of all together (``limits.held_bytes``); a reload changes it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._by_origin: dict[str, dict[Abandon, int]] = {}

    def change(self, origin: str, abandon: Abandon, size: int) -> None:
        """A migration from ``origin`` holds ``size`` bytes now. ``abandon`` ends it, and stands for it here."""
        of_origin = self._by_origin.setdefault(origin, {})
        self.bytes += size - of_origin.pop(abandon, 0)
        if size:
            of_origin[abandon] = size
        if not of_origin:
            del self._by_origin[origin]
        if self.bytes > self.limit:
            self._relieve()

    def _relieve(self) -> None:
        """Abandon one. What it holds is freed when its session ends, a moment later.

        Those past their commit point cannot be: their destination is slow to take what was released.
        """
        for origin, of_origin in sorted(self._by_origin.items(), key=lambda pair: -sum(pair[1].values())):
            for abandon, size in sorted(of_origin.items(), key=lambda pair: -pair[1]):
                reason = (
                    f"at most {self.limit} bytes of device state expected at once (limits.held_bytes), found "
                    f"{self.bytes}; {origin} holds {size} of them in this migration"
                )
                if abandon(Ending(Outcome.LIMIT, reason)):
                    return
