"""Which sources a route admits."""

from __future__ import annotations

import ipaddress

import pytest

from tests.proxyd.relay.stage import a_route


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("192.0.2.7", True),
        ("192.0.3.7", False),
        ("2001:db8::7", True),
        ("2001:db9::7", False),
        ("::ffff:192.0.2.7", True),  # an IPv4 source, seen by a socket on [::]
        ("::ffff:192.0.3.7", False),
        ("2001:db8::7%eth0", True),
    ],
)
def test_a_route_admits_its_networks(host: str, admitted: bool) -> None:
    networks = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))
    assert a_route(networks=networks).admits(host) is admitted


def test_a_route_without_networks_admits_everybody() -> None:
    assert a_route().admits("203.0.113.9")
