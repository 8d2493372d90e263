"""The configuration file: TOML to one frozen Config, with every mistake named by file, key and what is accepted.

This module reads the one file and judges it alone. It opens no other file, resolves no name and binds no port: what
a configuration leads to is :mod:`proxyd.snapshot`'s business. Unknown keys are errors, because a limit that is
misspelt would be a limit that is not there.

``config.example.toml`` lists every key with its default; a test compares the two.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec

from formats.arm64.register_id import UnknownRegister, id_of
from formats.device_tail import MAX_DEVICE_STATE_BYTES, MAX_SECTIONS
from formats.parser import MAX_NAME_BYTES
from formats.schemas.arm_cpu import MAX_CPREGS
from proxyd.rewrite.policy import ReturnPathPolicy

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

ROUTE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")

# Keys that later versions will have. "unknown key" would send the reader looking for a spelling mistake.
NOT_YET: Final = {
    "control": "the control socket is not supported by this version",
    "tls": "TLS is not supported by this version",
}


class ConfigError(Exception):
    """The configuration cannot be used. ``str()`` is one sentence: file, key, what is wrong and what is accepted."""

    def __init__(self, file: str, key: str, message: str) -> None:
        super().__init__(f"{file}: {key}: {message}" if key else f"{file}: {message}")
        self.file = file
        self.key = key
        self.message = message


class LogLevel(StrEnum):
    """The least urgent message that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """``text`` is for people and the journal, ``json`` is one object a line."""

    TEXT = "text"
    JSON = "json"


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
        if text.startswith(("unix:", "/")):
            raise ValueError(f"UNIX sockets are not supported by this version; expected host:port, found {text!r}")
        host, colon, port_text = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        if not colon or not host or (":" in host and not bracketed):
            raise ValueError(f"expected host:port or [ipv6]:port, found {text!r}")
        if not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
            raise ValueError(f"expected a port from 0 to 65535 after the colon, found {text!r}")
        if literal or bracketed:
            try:
                host = str(ipaddress.ip_address(host))
            except ValueError:
                raise ValueError(f"expected an IP address before the port, found {text!r}") from None
        return cls(host, int(port_text))

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
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class MetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[metrics]``: where Prometheus scrapes."""

    listen: str = "127.0.0.1:9469"


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[log]``: what goes to standard error."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.TEXT


class LimitsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[limits]``: what one connection may take, and how many there may be. Each default has its reason beside it."""

    # From accept to the end of the stream's prologue. QEMU sends it at once, but starts dirty logging first, which
    # takes seconds on a guest with terabytes of memory.
    header_time_s: Seconds = 30.0
    # Without a byte in either direction, before the commit point only. libvirt pauses before switchover while it
    # finishes disk mirrors, so minutes of silence are legitimate.
    idle_time_s: Seconds = 300.0
    # The same while device state is held. The guest is stopped by then and QEMU writes the rest in one go, so silence
    # means that the end will not come, and every second of it is downtime.
    hold_idle_time_s: Seconds = 10.0
    # One address of the destination; a host on the same network answers in milliseconds or not at all.
    connect_time_s: Seconds = 10.0
    # How long a drain lets migrations go on that have not reached their commit point. Past it there is no limit.
    drain_time_s: Seconds = 300.0
    # Concurrent sessions of all routes. One host receives a handful at once; more is a storm or an attack.
    connections: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    # Held until the vmdesc proves it. A typical arm64 guest has 0.2 to 5 MB, virtio-gpu can have tens.
    device_state_bytes: Count = MAX_DEVICE_STATE_BYTES
    # Sections of device state. The largest guests have a few hundred devices.
    sections: Count = MAX_SECTIONS
    # Registers in one vCPU's list. Linux 7.3 lists about 300 on the richest CPUs.
    cpregs: Count = MAX_CPREGS
    # Machine type and section names. The longest seen have 40 bytes; the wire allows 255 for a section.
    name_bytes: Count = MAX_NAME_BYTES


class RehearsalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[rehearsal]``: how routes with ``rehearse = true`` ask the KVM of the destination, which is this host."""

    # The service manager listens here and starts a process for each connection (systemd/proxyd-rehearse.socket).
    socket: str = "/run/proxyd/rehearse.sock"
    # An answer takes some 10 ms a vCPU. The guest stands still meanwhile, and 10 s is what most guests' clients and
    # watchdogs bear; without an answer the migration is refused, and the guest goes on at the source.
    answer_time_s: Seconds = 10.0


class RouteConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[route]]``: one address to listen on, one destination, one policy."""

    name: str
    listen: str
    destination: str
    profile: str | None = None
    destination_host: str | None = None
    allow: tuple[str, ...] = ()
    return_path: ReturnPathPolicy = ReturnPathPolicy.REQUIRE
    rehearse: bool = False
    source_networks: tuple[str, ...] = ()

    @property
    def listen_address(self) -> Address:
        """Checked by :func:`load`, so this cannot fail on what it returned."""
        return Address.parse(self.listen, literal=True)

    @property
    def destination_address(self) -> Address:
        """Checked by :func:`load`, so this cannot fail on what it returned."""
        return Address.parse(self.destination, literal=False)

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """Checked by :func:`load`. Empty means that any source may connect."""
        return tuple(ipaddress.ip_network(text) for text in self.source_networks)

    @property
    def allowed_registers(self) -> frozenset[int]:
        """Register ids of ``allow``. Checked by :func:`load`."""
        return frozenset(id_of(text) for text in self.allow)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole configuration file, valid in itself. ``path`` is where it came from; relative paths start there."""

    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()
    limits: LimitsConfig = LimitsConfig()
    rehearsal: RehearsalConfig = RehearsalConfig()
    route: tuple[RouteConfig, ...] = ()
    path: Path = Path("config.toml")

    @property
    def metrics_address(self) -> Address:
        """Checked by :func:`load`, so this cannot fail on what it returned."""
        return Address.parse(self.metrics.listen, literal=True)

    def relative(self, name: str) -> Path:
        """A path that the file names, taken from the file's own directory."""
        return self.path.parent / name


def load(path: Path) -> Config:
    """Read and judge a configuration file.

    :raises OSError: the file cannot be read.
    :raises ConfigError: it can, and is not a configuration that the daemon would run with.
    """
    return parse(path.read_bytes(), path)


def parse(data: bytes, path: Path) -> Config:
    """As :func:`load`, from bytes. ``path`` names the file in errors and anchors relative paths.

    :raises ConfigError: see :func:`load`.
    """
    file = str(path)
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(
            file, "", f"expected UTF-8, found byte {data[error.start]:#04x} at {error.start:#x}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(file, "", f"not TOML: {str(error)[:1].lower()}{str(error)[1:]}") from error

    _known(file, "", document, ("metrics", "log", "limits", "rehearsal", "route"))
    tables = document.get("route", [])
    if not isinstance(tables, list) or not tables:
        raise ConfigError(file, "route", "expected at least one [[route]] table")
    config = Config(
        metrics=_table(file, "metrics", document.get("metrics", {}), MetricsConfig),
        log=_table(file, "log", document.get("log", {}), LogConfig),
        limits=_table(file, "limits", document.get("limits", {}), LimitsConfig),
        rehearsal=_table(file, "rehearsal", document.get("rehearsal", {}), RehearsalConfig),
        route=tuple(_table(file, f"route[{n}]", table, RouteConfig) for n, table in enumerate(tables)),
        path=path,
    )
    _check_address(file, "metrics.listen", config.metrics.listen, literal=True)
    if not config.rehearsal.socket.startswith("/"):
        message = f"expected the absolute path of a UNIX socket, found {config.rehearsal.socket!r}"
        raise ConfigError(file, "rehearsal.socket", message)
    for n, route in enumerate(config.route):
        _check_route(file, f"route[{n}]", route)
    _check_together(file, config)
    return config


def _known(file: str, prefix: str, table: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in table:
        if key in keys:
            continue
        name = f"{prefix}.{key}" if prefix else key
        if key in NOT_YET:
            raise ConfigError(file, name, NOT_YET[key])
        near = difflib.get_close_matches(key, keys, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(file, name, f"unknown key{hint} (accepted here: {', '.join(keys)})")


S = TypeVar("S", bound=msgspec.Struct)


def _table(file: str, prefix: str, table: object, kind: type[S]) -> S:
    if not isinstance(table, dict):
        raise ConfigError(file, prefix, f"expected a table, found {table!r}")
    _known(file, prefix, table, kind.__struct_fields__)
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        # msgspec says "Expected `int`, got `str` - at `$.sections`"; the place becomes the key.
        message, _, place = str(error).partition(" - at `$")
        key = prefix + place.rstrip("`")
        message = message.replace("`", "")
        if message.startswith("Invalid enum value"):
            message += f" (accepted: {_enum_values(kind, place)})"
        raise ConfigError(file, key, message[:1].lower() + message[1:]) from error


def _enum_values(kind: type[msgspec.Struct], place: str) -> str:
    accepted = {
        field.encode_name: field.type
        for field in msgspec.structs.fields(kind)
        if isinstance(field.type, type) and issubclass(field.type, StrEnum)
    }
    return ", ".join(accepted[place.strip(".`")])


def _check_address(file: str, key: str, text: str, *, literal: bool) -> Address:
    try:
        return Address.parse(text, literal=literal)
    except ValueError as error:
        raise ConfigError(file, key, str(error)) from None


def _check_route(file: str, prefix: str, route: RouteConfig) -> None:
    if not ROUTE_NAME.fullmatch(route.name):
        # The name is a metric label and stands in every log line.
        message = f"expected 1 to 63 of a-z 0-9 _ . - starting with a letter or digit, found {route.name!r}"
        raise ConfigError(file, f"{prefix}.name", message)
    _check_address(file, f"{prefix}.listen", route.listen, literal=True)
    destination = _check_address(file, f"{prefix}.destination", route.destination, literal=False)
    if destination.port == 0:
        raise ConfigError(
            file, f"{prefix}.destination", f"expected a port from 1 to 65535, found {route.destination!r}"
        )
    if route.rehearse and route.destination_host is None and route.profile is None:
        message = "expected a destination_host or a profile beside it: without one nothing is planned to be rehearsed"
        raise ConfigError(file, f"{prefix}.rehearse", message)
    for n, text in enumerate(route.allow):
        try:
            id_of(text)
        except UnknownRegister as error:
            raise ConfigError(file, f"{prefix}.allow[{n}]", str(error)) from None
    for n, text in enumerate(route.source_networks):
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            message = f"expected a network such as 192.0.2.0/24 or 2001:db8::/32: {error}"
            raise ConfigError(file, f"{prefix}.source_networks[{n}]", message) from None


def _check_together(file: str, config: Config) -> None:
    """What is right alone and wrong beside the rest."""
    names: dict[str, int] = {}
    taken: list[tuple[str, Address]] = [("metrics.listen", config.metrics_address)]
    for n, route in enumerate(config.route):
        if route.name in names:
            message = f"{route.name!r} is already the name of route[{names[route.name]}]; names are unique"
            raise ConfigError(file, f"route[{n}].name", message)
        names[route.name] = n
        address = route.listen_address
        for other, there in taken:
            if _collide(address, there):
                message = f"{address} cannot be bound beside {other} = {there}; addresses are unique"
                raise ConfigError(file, f"route[{n}].listen", message)
        taken.append((f"route[{n}].listen", address))
    for n, route in enumerate(config.route):
        for other, there in taken[1:]:
            if route.destination_address == there:
                message = f"{there} is {other}: the route would lead back into proxyd"
                raise ConfigError(file, f"route[{n}].destination", message)


def _collide(one: Address, other: Address) -> bool:
    """Whether both cannot be bound at once. Port 0 is a new port each time."""
    if one.port != other.port or one.port == 0:
        return False
    same_family = (":" in one.host) == (":" in other.host)
    return one.host == other.host or (same_family and (one.is_wildcard or other.is_wildcard))
