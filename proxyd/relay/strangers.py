"""Connections that have not shown yet that they are migrations, and which of them goes when there are too many.

Opening a connection costs nothing and proves nothing, so whoever has just come takes none of the places of migrations
(``limits.connections``). He is a *stranger* (``limits.silent_connections``) through his TLS handshake and his first
bytes, until his prologue was accepted or a migration has taken him for one of its channels.

When there are too many, one of the source with the most goes: the oldest that has said nothing, or else the oldest.
So a source that opens thousands displaces itself, and one that opens a few is displaced by nobody unless there are
more such sources than places. No source has a limit of its own: a migration with 255 multifd channels is welcome as
long as there is room.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxyd.relay.outcome import Ending, Outcome

# Whoever has one IPv6 address has 2^64 of them.
_IPV6_SOURCE_BITS: Final = 64


@dataclass(eq=False, slots=True)
class Stranger:
    """One of them.

    ``ending``: set once it was displaced. ``turn_away`` is called then, and ends what is being done for it. ``spoke``
    says whether it has said anything. ``admitted``: it is a stranger no more.
    """

    source: str
    place: int
    turn_away: Callable[[Ending], object] = lambda _ending: None
    spoke: Callable[[], bool] = lambda: False
    ending: Ending | None = None
    admitted: bool = False


class Strangers:
    """All of them.

    :param limit: how many there may be; a reload changes it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.displaced = 0  # since the beginning
        self._count = 0
        self._places = 0
        self._by_source: dict[str, dict[Stranger, None]] = {}  # each in the order of arrival

    def __len__(self) -> int:
        return self._count

    def enter(self, origin: str) -> Stranger:
        """Somebody has come from ``origin`` (an IP address, or another name); somebody may have to go for that."""
        self._places += 1
        stranger = Stranger(_source(origin), self._places)
        self._by_source.setdefault(stranger.source, {})[stranger] = None
        self._count += 1
        while self._count > self.limit:
            self._displace()
        return stranger

    def leave(self, stranger: Stranger) -> None:
        """It is gone, or is a stranger no more. Does nothing the second time."""
        of_source = self._by_source.get(stranger.source, {})
        if stranger in of_source:
            del of_source[stranger]
            self._count -= 1
            if not of_source:
                del self._by_source[stranger.source]

    def _displace(self) -> None:
        most = max(self._by_source.values(), key=lambda them: (len(them), -next(iter(them)).place))
        found = len(most)
        one = next((each for each in most if not each.spoke()), next(iter(most)))
        self.leave(one)
        self.displaced += 1
        one.ending = Ending(
            Outcome.TOO_MANY_CONNECTIONS,
            f"more than {self.limit} connections had not shown to be migrations (limits.silent_connections); "
            f"{found} of them came from {one.source}, which has the most",
        )
        one.turn_away(one.ending)


def _source(origin: str) -> str:
    """Who is one source: an IPv4 address, an IPv6 network of 64 bits, a process behind a UNIX socket."""
    try:
        address = ipaddress.ip_address(origin.partition("%")[0])
    except ValueError:
        return origin
    if address.version == 4 or address.ipv4_mapped is not None:
        return origin
    return str(ipaddress.ip_network((address, _IPV6_SOURCE_BITS), strict=False))
