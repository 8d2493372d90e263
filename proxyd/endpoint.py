"""Where connections come from and where they go, as the configuration and the command line write it.

    listen        192.0.2.10:4444   [2001:db8::1]:4444   a TCP port
                  0.0.0.0:49152-49215                    a range of TCP ports
                  unix:/run/proxyd/in.sock               a UNIX socket
                  fd:NAME                                a socket from the service manager (FileDescriptorName=)
    destination   host.example:4444   unix:/run/qemu/migrate.sock
                  host.example:same                      the port that the source connected to, on that host
                  original                               what the source dialled before a redirect (SO_ORIGINAL_DST)

Texts to values and back; nothing is resolved, bound or connected here.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

# sockaddr_un.sun_path, with its NUL: unix(7).
MAX_UNIX_PATH_BYTES: Final = 107

# QEMU's sources and destinations need one port for each migration that runs at once; libvirt's own range has 64.
MAX_PORTS: Final = 1024

_UNIX: Final = "unix:"
_INHERITED: Final = "fd:"
_SAME: Final = "same"
_ORIGINAL: Final = "original"

# systemd.socket(5), FileDescriptorName=: no colon, no control character, at most 255.
_NAME: Final = re.compile(r"[!-9;-~]{1,255}")


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address. ``str()`` gives the form that the configuration takes: ``host:port`` or ``[ipv6]:port``."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, literal: bool) -> Address:
        """Read ``host:port``.

        :param literal: the host must be an IP address, as for listening, where a name that resolves differently
            tomorrow would open a port that nobody asked for.
        :raises ValueError: with a message that says what is accepted.
        """
        host, port_text = _split(text, literal=literal)
        return cls(host, _port(port_text, text))

    @property
    def is_wildcard(self) -> bool:
        """Whether this is 0.0.0.0 or ``[::]``: every address of the machine."""
        return self.host in {"0.0.0.0", "::"}  # noqa: S104 - recognised here, not bound

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports ``first`` to ``last``, both included, of one host: every one of them is listened on."""

    host: str
    first: int
    last: int

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Each port's address, in ascending order."""
        return tuple(Address(self.host, port) for port in range(self.first, self.last + 1))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.addresses[0].is_loopback

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A UNIX stream socket in the file system."""

    path: str

    is_loopback = True

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}"


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A listening socket that the service manager passes: sd_listen_fds_with_names(3). TCP or UNIX, as it was made."""

    name: str

    # Who reaches it is the unit's business, and not known here.
    is_loopback = True

    def __str__(self) -> str:
        return f"{_INHERITED}{self.name}"


@dataclass(frozen=True, slots=True)
class SamePort:
    """The port that the source connected to, on another host."""

    host: str

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{_SAME}"


@dataclass(frozen=True, slots=True)
class OriginalDestination:
    """The address that the source dialled, before the host's own packet filter redirected it to proxyd."""

    def __str__(self) -> str:
        return _ORIGINAL


Dialled: TypeAlias = Address | UnixPath
ListenEndpoint: TypeAlias = Address | PortRange | UnixPath | InheritedSocket
DestinationEndpoint: TypeAlias = Address | UnixPath | SamePort | OriginalDestination


def parse_listen(text: str) -> ListenEndpoint:
    """Read what a route listens on. Raises ValueError with a message that says what is accepted."""
    if text.startswith((_UNIX, "/")):
        return _unix(text)
    if text.startswith(_INHERITED):
        name = text.removeprefix(_INHERITED)
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected fd:NAME with the FileDescriptorName= of a socket unit, found {text!r}")
        return InheritedSocket(name)
    host, port_text = _split(text, literal=True)
    first_text, dash, last_text = port_text.partition("-")
    if not dash:
        return Address(host, _port(port_text, text))
    first, last = _port(first_text, text), _port(last_text, text)
    if not 0 < first <= last:
        raise ValueError(f"expected FIRST-LAST with ports from 1 to 65535 in ascending order, found {text!r}")
    if last - first >= MAX_PORTS:
        raise ValueError(f"expected a range of at most {MAX_PORTS} ports, found {last - first + 1} in {text!r}")
    return PortRange(host, first, last)


def parse_destination(text: str) -> DestinationEndpoint:
    """Read where a route leads. Raises ValueError with a message that says what is accepted."""
    if text == _ORIGINAL:
        return OriginalDestination()
    if text.startswith((_UNIX, "/")):
        return _unix(text)
    host, port_text = _split(text, literal=False)
    if port_text == _SAME:
        return SamePort(host)
    address = Address(host, _port(port_text, text))
    if address.port == 0:
        raise ValueError(f"expected a port from 1 to 65535, found {text!r}")
    return address


def collide(one: ListenEndpoint, other: ListenEndpoint) -> bool:
    """Whether both cannot be bound at once. Port 0 is a new port each time."""
    if not isinstance(one, Address | PortRange) or not isinstance(other, Address | PortRange):
        return one == other
    return any(
        mine.port == theirs.port and mine.port != 0 and _overlap(mine, theirs)
        for mine in _addresses(one)
        for theirs in _addresses(other)
    )


def _overlap(one: Address, other: Address) -> bool:
    same_family = (":" in one.host) == (":" in other.host)
    return one.host == other.host or (same_family and (one.is_wildcard or other.is_wildcard))


def _addresses(endpoint: Address | PortRange) -> tuple[Address, ...]:
    return endpoint.addresses if isinstance(endpoint, PortRange) else (endpoint,)


def _unix(text: str) -> UnixPath:
    path = text.removeprefix(_UNIX)
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"expected unix:/ABSOLUTE/PATH, found {text!r}")
    if len(path.encode()) > MAX_UNIX_PATH_BYTES:
        raise ValueError(f"expected a socket's path of at most {MAX_UNIX_PATH_BYTES} bytes, found {text!r}")
    return UnixPath(path)


def _split(text: str, *, literal: bool) -> tuple[str, str]:
    """Host, without brackets, and what stands behind the last colon."""
    host, colon, port_text = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError(f"expected host:port or [ipv6]:port, found {text!r}")
    if literal or bracketed:
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            raise ValueError(f"expected an IP address before the port, found {text!r}") from None
    return host, port_text


def _port(port_text: str, text: str) -> int:
    if not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
        raise ValueError(f"expected a port from 0 to 65535 after the colon, found {text!r}")
    return int(port_text)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
