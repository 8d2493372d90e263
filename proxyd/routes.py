"""A route: where a connection comes in, where it goes, and what may happen to it on the way.

What runs, as opposed to what the operator wrote (:class:`proxyd.config.RouteConfig`): the files are read, the names
are ids. Immutable, so that a session keeps the one it began with while a reload puts another in its place.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from proxyd.config import IPNetwork
from proxyd.endpoint import DestinationEndpoint, ListenEndpoint
from proxyd.rewrite.policy import RewritePolicy, StreamLimits
from proxyd.tls import ClientTls, ServerTls


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """The limits of a session that are times, in seconds. None of them applies past the commit point."""

    header_s: float
    idle_s: float
    hold_idle_s: float
    hold_s: float
    connect_s: float


@dataclass(frozen=True, slots=True)
class RehearsalService:
    """Where the service listens that may ask the destination's KVM, and how many seconds an answer may take."""

    socket: str
    answer_s: float


@dataclass(frozen=True, slots=True)
class Route:
    """One route, ready to carry migrations.

    ``label`` stands for it in metrics where that is not its name: routes that come and go must not make new series for
    ever. ``rehearsal`` is None where nothing is rehearsed. ``host_file``: where the destination's description is from,
    for hints.
    """

    name: str
    listen: ListenEndpoint
    destination: DestinationEndpoint
    networks: tuple[IPNetwork, ...]
    policy: RewritePolicy
    stream_limits: StreamLimits
    times: SessionTimes
    rehearsal: RehearsalService | None = None
    host_file: str | None = None
    label: str | None = None
    source_tls: ServerTls | None = None
    destination_tls: ClientTls | None = None

    @property
    def metrics_label(self) -> str:
        """What metrics call it."""
        return self.label or self.name

    def admits(self, host: str | None) -> bool:
        """Whether a source with this IP address may connect. Without networks, every source may.

        Who comes through a UNIX socket has no address: the socket's mode and directory say who may.
        """
        if not self.networks or host is None:
            return True
        address = ipaddress.ip_address(host.partition("%")[0])
        if address.version == 6 and address.ipv4_mapped is not None:
            # A socket on [::] sees IPv4 sources like this; the operator wrote the network as IPv4.
            address = address.ipv4_mapped
        return any(address.version == network.version and address in network for network in self.networks)
