"""The configuration: what can be said, with its defaults and the reason of each limit.

How it is read and judged is in :mod:`proxyd.config_file`; what it leads to is :mod:`proxyd.snapshot`'s business.
``config.example.toml`` lists every key with its default; a test compares the two.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from formats.arm64.register_id import id_of
from formats.configuration import MAX_NAME_BYTES
from formats.device_tail import MAX_DEVICE_STATE_BYTES, MAX_SECTIONS
from formats.schemas.arm_cpu import MAX_CPREGS
from proxyd.endpoint import Address, DestinationEndpoint, ListenEndpoint, parse_destination, parse_listen
from proxyd.rewrite.firewall import FirewallMode
from proxyd.rewrite.policy import PostcopyPolicy, ReturnPathPolicy

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


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
    # The device state as a whole. The guest stands still meanwhile; the largest that may be held comes in this time at
    # 1 MiB/s, which is slower than any migration network. Bounds who sends a byte now and then.
    hold_time_s: Seconds = 60.0
    # One address of the destination; a host on the same network answers in milliseconds or not at all.
    connect_time_s: Seconds = 10.0
    # How long a drain lets migrations go on that have not reached their commit point. Past it there is no limit.
    drain_time_s: Seconds = 300.0
    # From the start of a new process to its readiness, in an upgrade. It takes half a second, and some on a host that
    # is busy with migrations. A client of the control socket waits for 60 s.
    upgrade_time_s: Seconds = 30.0
    # Concurrent connections of migrations, all routes together; a migration with multifd has one for each channel. One
    # host receives a handful of migrations at once; more is a storm or an attack. Each connection can take nine file
    # descriptors.
    connections: Annotated[int, msgspec.Meta(ge=1, le=2048)] = 1024
    # Those that have not shown yet that they are migrations: they shake hands, say nothing, or have not ended their
    # prologue. Apart from the others, so that whoever opens connections for nothing keeps no migration out. The 255
    # multifd channels that one migration may have wait here for their main one, twice over.
    silent_connections: Annotated[int, msgspec.Meta(ge=1, le=2048)] = 512
    # Held until the vmdesc proves it. A typical arm64 guest has 0.2 to 5 MB, virtio-gpu can have tens.
    device_state_bytes: Count = MAX_DEVICE_STATE_BYTES
    # The same for all migrations together. Room for 200 typical guests at the same moment; with what the connections'
    # own buffers can take (3 MiB each, most of it the kernel's), below the 8 GiB of the packaged unit.
    held_bytes: Count = 1 << 30
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


class RecorderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[recorder]``: the flight recorder, which keeps device state as it came and as it left (never RAM)."""

    # Where recordings go; without one, nothing is recorded. They are as secret as the guests: proxyd's user alone
    # should be able to read there.
    directory: str | None = None
    # All recordings together; the oldest are removed. One has some 20 to 500 KB, packed.
    max_bytes: Count = 1 << 30
    # The same, as a number of files.
    max_recordings: Count = 1000


class AuditValues(StrEnum):
    """What the audit log says of register values."""

    FULL = "full"  # as they were and are
    REDACTED = "redacted"  # whether they changed, and nothing else


class AuditConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[audit]``: a file with one line of JSON for every change to a register, and for every migration's end."""

    # It is appended to, and opened again at a reload, as logrotate wants it. Without one there is no audit log; the
    # same facts are in the journal.
    file: str | None = None
    # What is rewritten are ID and feature registers and those the guest never had; their values say which CPU it runs
    # on. A register that may hold a secret (pointer authentication keys) is redacted in any case.
    values: AuditValues = AuditValues.FULL


class ControlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[control]``: where ``proxyd status``, ``route``, ``drain``, ``reload`` and ``abort`` reach the daemon."""

    # Without one, those commands have nothing to talk to; signals reload and drain all the same.
    socket: str | None = None


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[route.tls]``: which legs are TLS, with certificates in QEMU's own layout (``tls-creds-x509,dir=``).

    A directory has ca-cert.pem and, for the leg that proxyd accepts, server-cert.pem and server-key.pem; for the one
    that it dials, client-cert.pem and client-key.pem. ca-crl.pem is optional.
    """

    # Directories, or credentials:NAME for systemd's LoadCredential=NAME:DIRECTORY; a leg without one is plain.
    source: str | None = None
    destination: str | None = None
    # Whether a source must show a certificate of our CA: QEMU's verify-peer, which is on there as well.
    verify_source: bool = True
    # Distinguished names of sources that may migrate, as QEMU's tls-authz compares them; empty: every one of our CA.
    source_identities: tuple[str, ...] = ()
    # The name that the destination's certificate must have, where it is not the host of the destination:
    # tls-hostname at a QEMU source.
    hostname: str | None = None


class FirewallDeviceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[route.firewall.device]]``: bounds for the sections whose name matches. The first that matches counts."""

    section: str
    bytes: Count = MAX_DEVICE_STATE_BYTES
    instances: Count = MAX_SECTIONS


class FirewallConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[route.firewall]``: what a source may send at all."""

    # Telling first: a list that lacks one device of one guest refuses that guest.
    mode: FirewallMode = FirewallMode.ALERT
    # Globs for the names of sections ("cpu", "*/virtio-net"); empty: every one may come.
    sections: tuple[str, ...] = ()
    # One section of a device. As much as all may have together, so that by itself it refuses nothing.
    section_bytes: Count = MAX_DEVICE_STATE_BYTES
    # Sections of one name; cpu has one for each vCPU. As many as there may be altogether.
    instances: Count = MAX_SECTIONS
    # Values of device state that attacks have used.
    known_bad: bool = True
    device: tuple[FirewallDeviceConfig, ...] = ()


class RouteConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[route]]``: one address to listen on, one destination, one policy."""

    name: str
    listen: str
    destination: str
    profile: str | None = None
    destination_host: str | None = None
    allow: tuple[str, ...] = ()
    return_path: ReturnPathPolicy = ReturnPathPolicy.REQUIRE
    postcopy: PostcopyPolicy = PostcopyPolicy.PROVEN
    rehearse: bool = False
    source_networks: tuple[str, ...] = ()
    tls: TlsConfig | None = None
    firewall: FirewallConfig | None = None

    @property
    def listen_endpoint(self) -> ListenEndpoint:
        """Checked by :func:`~proxyd.config_file.load`, so this cannot fail on what it returned."""
        return parse_listen(self.listen)

    @property
    def destination_endpoint(self) -> DestinationEndpoint:
        """Checked by :func:`~proxyd.config_file.load`, so this cannot fail on what it returned."""
        return parse_destination(self.destination)

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """Checked by :func:`~proxyd.config_file.load`. Empty means that any source may connect."""
        return tuple(ipaddress.ip_network(text) for text in self.source_networks)

    @property
    def allowed_registers(self) -> frozenset[int]:
        """Register ids of ``allow``. Checked by :func:`~proxyd.config_file.load`."""
        return frozenset(id_of(text) for text in self.allow)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole configuration file, valid in itself. ``path`` is where it came from; relative paths start there."""

    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()
    limits: LimitsConfig = LimitsConfig()
    rehearsal: RehearsalConfig = RehearsalConfig()
    control: ControlConfig = ControlConfig()
    recorder: RecorderConfig = RecorderConfig()
    audit: AuditConfig = AuditConfig()
    route: tuple[RouteConfig, ...] = ()
    path: Path = Path("config.toml")

    @property
    def metrics_address(self) -> Address:
        """Checked by :func:`~proxyd.config_file.load`, so this cannot fail on what it returned."""
        return Address.parse(self.metrics.listen, literal=True)

    def relative(self, name: str) -> Path:
        """A path that the file names, taken from the file's own directory."""
        return self.path.parent / name
