"""Dialling the destination for a connection that waits: TCP or UNIX, then TLS where the route says so.

The source goes on being watched meanwhile. A destination can take as long as its time limits allow, and a source that
has given up by then (``migrate_cancel``) must not reach it: a QEMU that waits takes the connection for its migration,
sees it end, and exits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from proxyd.endpoint import Address, Dialled
from proxyd.relay.channel import DestinationUnreachable, Leg
from proxyd.relay.tls_leg import HandshakeFailed
from proxyd.routes import Route
from proxyd.tls import ClientTls

Dialler = Callable[[Dialled, float], Awaitable[Leg]]

Securer = Callable[[Any, ClientTls, str], Awaitable[Leg]]

# How often the source is looked at. A connection within one network is there sooner.
WATCH_S: Final = 0.1


async def dial_destination(towards: Dialled, route: Route, dialler: Dialler, secure: Securer) -> Leg:
    """Connect, and shake hands where that leg is TLS. Raises :class:`DestinationUnreachable`."""
    leg = await dialler(towards, route.times.connect_s)
    tls = route.destination_tls
    if tls is None:
        return leg
    host = towards.host if isinstance(towards, Address) else ""
    try:
        with trio.fail_after(route.times.connect_s):
            return await secure(leg, tls, host)
    except HandshakeFailed as error:
        raise DestinationUnreachable(f"destination {towards}: {error}") from error
    except trio.TooSlowError:
        limit = f"no TLS handshake in {route.times.connect_s:g} s (limits.connect_time_s)"
        raise DestinationUnreachable(f"destination {towards}: {limit}") from None


async def watched(source: Leg, dialling: Awaitable[Leg], gone: Callable[[], None], *, fin: bool) -> Leg:
    """What ``dialling`` returns or raises; ``gone`` is called, once, if the source goes away before.

    :param fin: whether a FIN is an end: not of a source that waits for no answer and may have sent everything.
    """
    failure: DestinationUnreachable | None = None
    leg: Leg | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, source, gone, fin)
        try:
            leg = await dialling
        except DestinationUnreachable as error:
            failure = error
        nursery.cancel_scope.cancel()
    if leg is None:
        raise failure or AssertionError("dialling ends with a leg or an error")
    return leg


async def _watch(source: Leg, gone: Callable[[], None], fin: bool) -> None:
    while not source.hung_up(fin=fin):  # noqa: ASYNC110 - nothing tells that, as long as there are unread bytes
        await trio.sleep(WATCH_S)
    gone()
