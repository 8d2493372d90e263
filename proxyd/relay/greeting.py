"""What a connection says first, and what that makes of it.

QEMU's channels begin with a magic number, all but one: a postcopy preempt channel says nothing until the first urgent
page, and then a page. It is known by the company it keeps: it comes from where a main channel came from that has said
that it may become postcopy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from formats.channel import CLASSIFY_BYTES, MULTIFD_INIT_BYTES, ChannelKind, classify
from proxyd.relay.channel import Leg
from proxyd.relay.outcome import Ending, Outcome

# How long a connection may be silent before it is asked whether a migration expects it. A port probe is gone by then;
# a source of QEMU 7.2 machine types waits for its preempt channel before it begins, while its guest runs.
SETTLE_S: Final = 0.25

_TLS: Final = (
    "this is a TLS handshake, and the route's source leg is plain (expected tls.source in its configuration, or at the "
    'source: migrate_set_parameter tls-creds "")'
)


class Greeting:
    """Reads the first bytes of a connection.

    ``first`` is what has come so far; ``kind`` is set once it is enough.

    :param expected: whether a migration of the same origin takes a connection that says nothing known.
    """

    def __init__(self, source: Leg, expected: Callable[[], bool]) -> None:
        self.first = b""
        self.kind = ChannelKind.UNKNOWN
        self._source = source
        self._expected = expected
        self._patience = trio.CancelScope()

    def hurry(self) -> None:
        """Ask at once whether a migration expects it."""
        self._patience.cancel()

    async def read(self) -> Ending | None:
        """Read until it is known what this is. Returns how it ended if it is nothing that can be carried."""
        while len(self.first) < CLASSIFY_BYTES:
            with trio.move_on_after(SETTLE_S) as self._patience:
                if not await self._more():
                    found = f"found {self.first.hex()}" if self.first else "found nothing: a port probe?"
                    return Ending(Outcome.NOT_MIGRATION, f"expected a migration stream, {found}")
            if self._patience.cancelled_caught and not self.first and self._expected():
                self.kind = ChannelKind.PREEMPT
                return None
        self.kind = classify(self.first)
        if self.kind is ChannelKind.TLS:
            return Ending(Outcome.UNSUPPORTED, _TLS)
        if self.kind is ChannelKind.UNKNOWN:
            if not self._expected():
                found = self.first[:CLASSIFY_BYTES].hex()
                reason = f"expected a migration stream (5145564d, QEVM), found {found}"
                return Ending(Outcome.NOT_MIGRATION, reason)
            self.kind = ChannelKind.PREEMPT
        while self.kind is ChannelKind.MULTIFD and len(self.first) < MULTIFD_INIT_BYTES:
            if not await self._more():
                reason = f"the source closed a multifd channel after {len(self.first)} of {MULTIFD_INIT_BYTES} bytes"
                return Ending(Outcome.SOURCE_GONE, reason)
        return None

    async def _more(self) -> bool:
        try:
            chunk = await self._source.receive_some()
        except trio.BrokenResourceError:
            chunk = b""
        self.first += chunk
        return bool(chunk)
