"""A multifd channel, held to the firewall of its route: headers are looked at, pages are not.

Between two plain sockets the pages stay in the kernel: what is asked of a pump is to let so many bytes pass unseen, or
to show so many. A header is judged before its last byte is sent on, and no QEMU acts on a part of one.

In mode ``deny`` a finding ends the channel at any time, past the commit point as well: a destination cannot complete
without what the channel still owes it (``migration/multifd.c: multifd_recv_sync_main``), so the guest stays where it
is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from formats.errors import SchemaMismatch
from formats.multifd import MultifdReader
from proxyd.rewrite.firewall import Finding, Firewall, FirewallPolicy

# Where nothing is known any more, everything passes; a pump asks again after so many bytes.
_EVERYTHING: Final = 1 << 30


class Inspection:
    """Of one channel.

    :param page_size: of the guest, in bytes.
    :param found: hears of every finding, before it refuses anything.
    """

    def __init__(self, policy: FirewallPolicy, page_size: int, found: Callable[[Finding], None]) -> None:
        self._firewall = Firewall(policy, found)
        self._reader = MultifdReader(page_size)
        self._lost = False

    @property
    def unseen(self) -> int:
        """How many of the bytes that come next need not be looked at."""
        return _EVERYTHING if self._lost else self._reader.payload_left

    @property
    def wanted(self) -> int:
        """How many bytes are to be shown, where there are none to let pass."""
        return self._reader.header_left

    def passed(self, size: int) -> None:
        """``size`` bytes have passed unseen, no more than :attr:`unseen`."""
        if not self._lost:
            self._reader.skip(size)

    def look(self, data: bytes | memoryview) -> None:
        """See the next bytes, of whatever kind. Raises :class:`~proxyd.rewrite.refusal.RewriteRefused`."""
        if self._lost:
            return
        try:
            for packet in self._reader.feed(data):
                self._firewall.packet(packet)
        except SchemaMismatch as error:
            self._lost = True
            self._firewall.no_packet(error)
