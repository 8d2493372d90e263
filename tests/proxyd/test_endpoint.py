"""Endpoints: each form there and back, and what is wrong with what is not one."""

from __future__ import annotations

import pytest

from proxyd.endpoint import (
    Address,
    InheritedSocket,
    OriginalDestination,
    PortRange,
    SamePort,
    UnixPath,
    collide,
    parse_destination,
    parse_listen,
)


@pytest.mark.parametrize(
    ("text", "loopback", "wildcard"),
    [
        ("127.0.0.1:1", True, False),
        ("[::1]:1", True, False),
        ("0.0.0.0:1", False, True),
        ("[::]:1", False, True),
        ("192.0.2.1:1", False, False),
        ("localhost:1", True, False),
        ("host.example:1", False, False),
    ],
)
def test_an_address_knows_who_can_reach_it(text: str, loopback: bool, wildcard: bool) -> None:
    address = Address.parse(text, literal=False)
    assert str(address) == text
    assert address.is_loopback is loopback
    assert address.is_wildcard is wildcard


@pytest.mark.parametrize(
    ("text", "endpoint", "loopback"),
    [
        ("192.0.2.1:1", Address("192.0.2.1", 1), False),
        ("[::1]:0", Address("::1", 0), True),
        ("[2001:db8::1]:10-12", PortRange("2001:db8::1", 10, 12), False),
        ("127.0.0.1:7-7", PortRange("127.0.0.1", 7, 7), True),
        ("unix:/run/x", UnixPath("/run/x"), True),
        ("fd:migration-in", InheritedSocket("migration-in"), True),
    ],
)
def test_what_is_listened_on(text: str, endpoint: object, loopback: bool) -> None:
    found = parse_listen(text)
    assert found == endpoint
    assert str(found) == text
    assert found.is_loopback is loopback


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("host.example:1", Address("host.example", 1)),
        ("host.example:same", SamePort("host.example")),
        ("[::1]:same", SamePort("::1")),
        ("unix:/run/x", UnixPath("/run/x")),
        ("original", OriginalDestination()),
    ],
)
def test_where_routes_lead(text: str, endpoint: object) -> None:
    found = parse_destination(text)
    assert found == endpoint
    assert str(found) == text


def test_a_path_alone_is_a_unix_socket() -> None:
    assert parse_listen("/run/x") == parse_destination("/run/x") == UnixPath("/run/x")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("host.example:1", "expected an IP address before the port, found 'host.example:1'"),
        ("127.0.0.1:2-1", "expected FIRST-LAST with ports from 1 to 65535 in ascending order, found '127.0.0.1:2-1'"),
        ("127.0.0.1:0-1", "expected FIRST-LAST with ports from 1 to 65535 in ascending order, found '127.0.0.1:0-1'"),
        ("127.0.0.1:1-x", "expected a port from 0 to 65535 after the colon, found '127.0.0.1:1-x'"),
        ("127.0.0.1:1-1025", "expected a range of at most 1024 ports, found 1025 in '127.0.0.1:1-1025'"),
        ("127.0.0.1:same", "expected a port from 0 to 65535 after the colon, found '127.0.0.1:same'"),
        ("unix:run/x", "expected unix:/ABSOLUTE/PATH, found 'unix:run/x'"),
        (f"unix:/{'x' * 107}", f"expected a socket's path of at most 107 bytes, found 'unix:/{'x' * 107}'"),
        ("fd:a:b", "expected fd:NAME with the FileDescriptorName= of a socket unit, found 'fd:a:b'"),
        ("fd:", "expected fd:NAME with the FileDescriptorName= of a socket unit, found 'fd:'"),
    ],
)
def test_what_cannot_be_listened_on(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r"^expected") as caught:
        parse_listen(text)
    assert str(caught.value) == complaint


def test_a_destination_has_a_port() -> None:
    with pytest.raises(ValueError, match=r"^expected a port from 1 to 65535, found 'a.example:0'$"):
        parse_destination("a.example:0")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1:4-6", "127.0.0.1:6", True),
        ("127.0.0.1:4-6", "0.0.0.0:6-9", True),
        ("127.0.0.1:4-6", "127.0.0.1:7", False),
        ("127.0.0.1:4", "[::]:4", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("fd:a", "127.0.0.1:4", False),
    ],
)
def test_what_cannot_be_bound_at_once(one: str, other: str, expected: bool) -> None:
    assert collide(parse_listen(one), parse_listen(other)) is expected
    assert collide(parse_listen(other), parse_listen(one)) is expected
