"""Where one connection leads: what its route says, or what the connection itself tells.

Only the address is worked out here; nothing is resolved or dialled.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from proxyd.endpoint import Address, Dialled, OriginalDestination, SamePort, UnixPath
from proxyd.relay.channel import SocketLeg
from proxyd.routes import Route

# linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h: the same number at two levels.
_SO_ORIGINAL_DST: Final = 80
_SOCKADDR_IN: Final = struct.Struct("!2xH4s8x")
_SOCKADDR_IN6: Final = struct.Struct("!2xH4x16s4x")


class NoDestination(Exception):
    """A connection that leads nowhere. ``str()`` says what was expected."""


def fixed_destination(route: Route) -> Dialled:
    """The destination of a route whose connections all lead to the same place."""
    match route.destination:
        case Address() | UnixPath() as destination:
            return destination
        case _:
            raise AssertionError(f"where {route.destination} is, only a connection can tell")


def destination_of(route: Route, leg: SocketLeg) -> Dialled:
    """Where ``leg`` leads.

    :raises NoDestination: it was to be redirected to us and was not.
    """
    match route.destination:
        case SamePort(host):
            if leg.local is None:
                raise NoDestination(f"expected a connection to a port, for destination {route.destination}")
            return Address(host, leg.local.port)
        case OriginalDestination():
            return _original(leg)
        case destination:
            return destination


def _original(leg: SocketLeg) -> Address:
    """What the source dialled before the host's packet filter sent it here (``nf_conntrack``'s reply tuple)."""
    reached = leg.local
    if reached is None:
        raise NoDestination("expected a TCP connection that was redirected, found a UNIX socket")
    six = ":" in reached.host and not reached.host.startswith("::ffff:")
    level, layout = (socket.IPPROTO_IPV6, _SOCKADDR_IN6) if six else (socket.IPPROTO_IP, _SOCKADDR_IN)
    try:
        data = leg.getsockopt(level, _SO_ORIGINAL_DST, layout.size)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOPROTOOPT}:
            raise NoDestination(f"the original destination cannot be asked for: {error.strerror}") from error
        raise NoDestination(_not_redirected(reached)) from error
    port, packed = layout.unpack(data)
    original = Address(socket.inet_ntop(socket.AF_INET6 if six else socket.AF_INET, packed), port)
    if original == Address(reached.host.removeprefix("::ffff:"), reached.port):
        # Dialling it would lead back here, again and again.
        raise NoDestination(_not_redirected(reached))
    return original


def _not_redirected(reached: Address) -> str:
    return (
        f'expected a connection that the packet filter has redirected (destination = "original"), found one that was '
        f"made to {reached} itself"
    )
