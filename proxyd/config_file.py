"""Reading the configuration file: TOML to one frozen Config, every mistake named by file, key and what is accepted.

This module reads the one file and judges it alone. It opens no other file, resolves no name and binds no port: what
a configuration leads to is :mod:`proxyd.snapshot`'s business. Unknown keys are errors, because a limit that is
misspelt would be a limit that is not there.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import msgspec

from formats.arm64.register_id import UnknownRegister, id_of
from proxyd.config import (
    AuditConfig,
    Config,
    ConfigError,
    ControlConfig,
    LimitsConfig,
    LogConfig,
    MetricsConfig,
    RecorderConfig,
    RehearsalConfig,
    RouteConfig,
)
from proxyd.endpoint import (
    Address,
    ListenEndpoint,
    OriginalDestination,
    PortRange,
    SamePort,
    UnixPath,
    collide,
    parse_destination,
    parse_listen,
)

ROUTE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")

T = TypeVar("T")


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

    _known(file, "", document, ("metrics", "log", "limits", "rehearsal", "control", "recorder", "audit", "route"))
    tables = document.get("route", [])
    if not isinstance(tables, list) or not tables:
        raise ConfigError(file, "route", "expected at least one [[route]] table")
    config = Config(
        metrics=_table(file, "metrics", document.get("metrics", {}), MetricsConfig),
        log=_table(file, "log", document.get("log", {}), LogConfig),
        limits=_table(file, "limits", document.get("limits", {}), LimitsConfig),
        rehearsal=_table(file, "rehearsal", document.get("rehearsal", {}), RehearsalConfig),
        control=_table(file, "control", document.get("control", {}), ControlConfig),
        recorder=_table(file, "recorder", document.get("recorder", {}), RecorderConfig),
        audit=_table(file, "audit", document.get("audit", {}), AuditConfig),
        route=tuple(_table(file, f"route[{n}]", table, RouteConfig) for n, table in enumerate(tables)),
        path=path,
    )
    _checked(file, "metrics.listen", config.metrics.listen, lambda text: Address.parse(text, literal=True))
    for key, socket in (("rehearsal.socket", config.rehearsal.socket), ("control.socket", config.control.socket)):
        if socket is not None and not socket.startswith("/"):
            raise ConfigError(file, key, f"expected the absolute path of a UNIX socket, found {socket!r}")
    for n, route in enumerate(config.route):
        _check_route(file, f"route[{n}]", route)
    _check_together(file, config)
    return config


def with_route(config: Config, table: dict[str, Any]) -> Config:
    """``config`` with one more route at its end, which is judged as if it stood in the file.

    :raises ConfigError: see :func:`load`; the keys begin with ``route``.
    """
    file = str(config.path)
    route = _table(file, "route", table, RouteConfig)
    _check_route(file, "route", route)
    more = msgspec.structs.replace(config, route=(*config.route, route))
    _check_together(file, more)
    return more


def _known(file: str, prefix: str, table: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in table:
        if key in keys:
            continue
        name = f"{prefix}.{key}" if prefix else key
        near = difflib.get_close_matches(key, keys, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(file, name, f"unknown key{hint} (accepted here: {', '.join(keys)})")


def _known_within(file: str, prefix: str, table: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    """As :func:`_known`, and in the tables of this table."""
    _known(file, prefix, table, kind.__struct_fields__)
    for name, field in ((field.encode_name, field.type) for field in msgspec.structs.fields(kind)):
        inner = next(
            (one for one in get_args(field) if isinstance(one, type) and issubclass(one, msgspec.Struct)), None
        )
        found = table.get(name)
        if inner is not None and isinstance(found, dict):
            _known_within(file, f"{prefix}.{name}", found, inner)
        elif inner is not None and isinstance(found, list):
            for n, one in enumerate(found):
                if isinstance(one, dict):
                    _known_within(file, f"{prefix}.{name}[{n}]", one, inner)


S = TypeVar("S", bound=msgspec.Struct)


def _table(file: str, prefix: str, table: object, kind: type[S]) -> S:
    if not isinstance(table, dict):
        raise ConfigError(file, prefix, f"expected a table, found {table!r}")
    _known_within(file, prefix, table, kind)
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
    """The values of the enum at ``place`` (``.firewall.mode``), which msgspec does not name."""
    found: Any = kind
    for name in place.strip(".`").split("."):
        found = next(field.type for field in msgspec.structs.fields(found) if field.encode_name == name)
        found = next((one for one in get_args(found) if one is not type(None)), found)
    values: type[StrEnum] = found
    return ", ".join(values)


def _checked(file: str, key: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(file, key, str(error)) from None


def _check_route(file: str, prefix: str, route: RouteConfig) -> None:
    if not ROUTE_NAME.fullmatch(route.name):
        # The name is a metric label and stands in every log line.
        message = f"expected 1 to 63 of a-z 0-9 _ . - starting with a letter or digit, found {route.name!r}"
        raise ConfigError(file, f"{prefix}.name", message)
    listen = _checked(file, f"{prefix}.listen", route.listen, parse_listen)
    destination = _checked(file, f"{prefix}.destination", route.destination, parse_destination)
    if isinstance(destination, SamePort | OriginalDestination) and isinstance(listen, UnixPath):
        message = f"expected an address: what comes in through a UNIX socket has no {destination} one"
        raise ConfigError(file, f"{prefix}.destination", message)
    _check_tls(file, prefix, route)
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


def _check_tls(file: str, prefix: str, route: RouteConfig) -> None:
    tls = route.tls
    if tls is None:
        return
    if tls.source is None and tls.destination is None:
        message = "expected source or destination in it, the directories of certificates for those legs"
        raise ConfigError(file, f"{prefix}.tls", message)
    if tls.source is None and tls.source_identities:
        raise ConfigError(file, f"{prefix}.tls.source_identities", "expected tls.source beside it: that leg is plain")
    if not tls.verify_source and tls.source_identities:
        message = "expected verify_source = true beside it: who shows no certificate has no identity"
        raise ConfigError(file, f"{prefix}.tls.source_identities", message)
    if tls.destination is None and tls.hostname is not None:
        raise ConfigError(file, f"{prefix}.tls.hostname", "expected tls.destination beside it: that leg is plain")


def _check_together(file: str, config: Config) -> None:
    """What is right alone and wrong beside the rest."""
    names: dict[str, int] = {}
    taken: list[tuple[str, ListenEndpoint]] = [("metrics.listen", config.metrics_address)]
    for n, route in enumerate(config.route):
        if route.name in names:
            message = f"{route.name!r} is already the name of route[{names[route.name]}]; names are unique"
            raise ConfigError(file, f"route[{n}].name", message)
        names[route.name] = n
        endpoint = route.listen_endpoint
        for other, there in taken:
            if collide(endpoint, there):
                message = f"{endpoint} cannot be bound beside {other} = {there}; addresses are unique"
                raise ConfigError(file, f"route[{n}].listen", message)
        taken.append((f"route[{n}].listen", endpoint))
    for n, route in enumerate(config.route):
        destination = route.destination_endpoint
        for other, there in taken[1:]:
            if destination == there or (isinstance(there, PortRange) and destination in there.addresses):
                message = f"{destination} is {other}: the route would lead back into proxyd"
                raise ConfigError(file, f"route[{n}].destination", message)
