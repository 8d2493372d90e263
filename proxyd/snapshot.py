"""Everything that a configuration leads to, built whole or not at all.

A reload builds a new snapshot first and only then puts it in force, so a mistake changes nothing. A session takes its
route from the snapshot in force when it began, and keeps it.

``proxyd check-config`` is :func:`proxyd.config.load` and :meth:`Snapshot.build`, nothing else: what it accepts, the
daemon accepts, except for ports that are taken by then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from proxyd.config import Config, ConfigError, RouteConfig, TlsConfig
from proxyd.rewrite.firewall import NO_FIREWALL, DeviceLimit, FirewallMode, FirewallPolicy
from proxyd.rewrite.host import HostDescription, HostError
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination
from proxyd.rewrite.policy import RewritePolicy, StreamLimits
from proxyd.rewrite.profile import Profile, ProfileError
from proxyd.routes import RehearsalService, Route, SessionTimes
from proxyd.tls import Directory, TlsError, client_tls, directory_of, server_tls

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A configuration with its routes ready to run."""

    config: Config
    routes: tuple[Route, ...]

    @classmethod
    def build(cls, config: Config) -> Snapshot:
        """Read every file that the configuration names, and the knowledge base. Blocks; opens no socket.

        :raises ConfigError: a profile or a host description cannot be read or used; the key says which route's.
        """
        knowledge = Knowledge.builtin()
        return cls(config, tuple(_route(config, n, knowledge) for n in range(len(config.route))))


def one_more_route(config: Config, *, label: str) -> Route:
    """The last route of ``config``, ready to run; metrics call it ``label``. Blocks and raises as Snapshot.build."""
    return replace(_route(config, len(config.route) - 1, Knowledge.builtin()), label=label)


def remarks(snapshot: Snapshot) -> tuple[str, ...]:
    """What is legal and still worth a second look, one sentence each. ``check-config`` and the daemon's start tell."""
    found = []
    for route in snapshot.routes:
        if route.policy.destination is None:
            found.append(f"route {route.name}: no profile and no destination_host, so nothing is rewritten")
        if not route.networks and not route.listen.is_loopback:
            found.append(f"route {route.name}: no source_networks, so anybody who reaches {route.listen} may migrate")
        firewall = route.policy.firewall
        if firewall.mode is not FirewallMode.OFF and not firewall.lists("ram"):
            found.append(f'route {route.name}: firewall.sections has nothing for "ram", which every migration sends')
    if not snapshot.config.metrics_address.is_loopback:
        found.append(f"metrics.listen: anybody who reaches {snapshot.config.metrics.listen} may read the metrics")
    return tuple(found)


def _route(config: Config, n: int, knowledge: Knowledge) -> Route:
    route = config.route[n]
    limits = config.limits
    return Route(
        name=route.name,
        listen=route.listen_endpoint,
        destination=route.destination_endpoint,
        networks=route.networks,
        policy=RewritePolicy(
            destination=_destination(config, n, route),
            knowledge=knowledge,
            allow=route.allowed_registers,
            return_path=route.return_path,
            rehearse=route.rehearse,
            postcopy=route.postcopy,
            record=config.recorder.directory is not None,
            firewall=_firewall(route),
        ),
        stream_limits=StreamLimits(
            device_state_bytes=limits.device_state_bytes,
            sections=limits.sections,
            cpregs=limits.cpregs,
            name_bytes=limits.name_bytes,
        ),
        times=SessionTimes(
            header_s=limits.header_time_s,
            idle_s=limits.idle_time_s,
            hold_idle_s=limits.hold_idle_time_s,
            hold_s=limits.hold_time_s,
            connect_s=limits.connect_time_s,
        ),
        rehearsal=RehearsalService(config.rehearsal.socket, config.rehearsal.answer_time_s) if route.rehearse else None,
        host_file=None if route.destination_host is None else str(config.relative(route.destination_host)),
        source_tls=_tls(config, n, "source", server_tls),
        destination_tls=_tls(config, n, "destination", client_tls),
    )


def _firewall(route: RouteConfig) -> FirewallPolicy:
    rules = route.firewall
    if rules is None:
        return NO_FIREWALL
    return FirewallPolicy(
        mode=rules.mode,
        section_bytes=rules.section_bytes,
        instances=rules.instances,
        sections=rules.sections,
        devices=tuple(DeviceLimit(one.section, one.bytes, one.instances) for one in rules.device),
        known_bad=rules.known_bad,
    )


def _tls(config: Config, n: int, side: str, build: Callable[[TlsConfig, Directory], T]) -> T | None:
    tls = config.route[n].tls
    directory = None if tls is None else getattr(tls, side)
    if tls is None or directory is None:
        return None
    try:
        return build(tls, directory_of(config, directory, os.environ))
    except TlsError as error:
        raise ConfigError(str(config.path), f"route[{n}].tls.{side}", str(error)) from error


def _destination(config: Config, n: int, route: RouteConfig) -> Destination | None:
    host = _read(config, f"route[{n}].destination_host", route.destination_host, HostDescription.parse)
    profile = _read(config, f"route[{n}].profile", route.profile, Profile.parse)
    if host is None and profile is None:
        return None
    return Destination(host=host, profile=profile)


def _read(config: Config, key: str, name: str | None, parse: Callable[[bytes, str], T]) -> T | None:
    if name is None:
        return None
    path = config.relative(name)
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(str(config.path), key, f"cannot read {path}: {error.strerror}") from error
    except (HostError, ProfileError) as error:
        raise ConfigError(str(config.path), key, str(error)) from error
