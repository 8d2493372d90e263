"""Where one connection leads. That a redirected one leads to where it was meant to go needs a packet filter:
tests/transparent has one."""

from __future__ import annotations

import dataclasses
import errno
import socket
import struct
from pathlib import Path

import pytest
import trio

from proxyd.endpoint import Address, DestinationEndpoint, OriginalDestination, SamePort, UnixPath
from proxyd.relay.channel import SocketLeg
from proxyd.relay.destination import NoDestination, destination_of, fixed_destination
from proxyd.routes import Route
from tests.proxyd.relay.stage import a_route


def route(destination: DestinationEndpoint) -> Route:
    return dataclasses.replace(a_route(), destination=destination)


async def a_leg(host: str = "127.0.0.1") -> SocketLeg:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener, socket.socket(family) as peer:
        peer.connect(listener.getsockname())
        return SocketLeg(listener.accept()[0])


async def a_unix_leg(path: Path) -> SocketLeg:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as peer:
        listener.bind(str(path))
        listener.listen()
        peer.connect(str(path))
        return SocketLeg(listener.accept()[0])


@pytest.mark.parametrize("destination", [Address("host.example", 1), UnixPath("/run/x")])
async def test_a_fixed_destination(destination: Address | UnixPath) -> None:
    leg = await a_leg()
    assert destination_of(route(destination), leg) == fixed_destination(route(destination)) == destination
    leg.close()


async def test_the_same_port_on_another_host(tmp_path: Path) -> None:
    leg = await a_leg()
    assert leg.local is not None
    assert destination_of(route(SamePort("host.example")), leg) == Address("host.example", leg.local.port)
    leg.close()
    other = await a_unix_leg(tmp_path / "s")
    with pytest.raises(NoDestination, match=r"expected a connection to a port, for destination host.example:same"):
        destination_of(route(SamePort("host.example")), other)
    with pytest.raises(NoDestination, match="expected a TCP connection that was redirected, found a UNIX socket"):
        destination_of(route(OriginalDestination()), other)
    other.close()


def test_only_a_connection_tells_where_the_others_lead() -> None:
    with pytest.raises(AssertionError, match="only a connection can tell"):
        fixed_destination(route(OriginalDestination()))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_connection_that_was_not_redirected_leads_nowhere(host: str) -> None:
    leg = await a_leg(host)
    with pytest.raises(NoDestination) as caught:
        destination_of(route(OriginalDestination()), leg)
    assert str(caught.value) == (
        'expected a connection that the packet filter has redirected (destination = "original"), found one that was '
        f"made to {leg.local} itself"
    )
    leg.close()


@pytest.mark.parametrize(
    ("host", "level", "answer", "expected"),
    [
        (
            "127.0.0.1",
            socket.IPPROTO_IP,
            struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 49152, bytes([192, 0, 2, 7])),
            Address("192.0.2.7", 49152),
        ),
        (
            "::1",
            socket.IPPROTO_IPV6,
            struct.pack("=H", socket.AF_INET6)
            + struct.pack("!H4x16s4x", 49153, socket.inet_pton(socket.AF_INET6, "2001:db8::7")),
            Address("2001:db8::7", 49153),
        ),
    ],
)
async def test_what_the_kernel_answers(
    host: str, level: int, answer: bytes, expected: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg = await a_leg(host)

    def ask(_leg: SocketLeg, asked: int, option: int, size: int) -> bytes:
        assert (asked, option, size) == (level, 80, len(answer))
        return answer

    monkeypatch.setattr(SocketLeg, "getsockopt", ask)
    assert destination_of(route(OriginalDestination()), leg) == expected
    leg.close()


async def test_our_own_address_is_no_destination_and_other_errors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    leg = await a_leg()
    assert leg.local is not None
    own = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", leg.local.port, bytes([127, 0, 0, 1]))
    monkeypatch.setattr(SocketLeg, "getsockopt", lambda *_: own)
    with pytest.raises(NoDestination, match=r"itself$"):
        destination_of(route(OriginalDestination()), leg)

    def fail(*_: object) -> bytes:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(SocketLeg, "getsockopt", fail)
    with pytest.raises(NoDestination, match="the original destination cannot be asked for: Operation not permitted"):
        destination_of(route(OriginalDestination()), leg)
    leg.close()
    await trio.lowlevel.checkpoint()
