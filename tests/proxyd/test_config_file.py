"""The configuration file: what is accepted, and what each mistake is told as."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxyd import config_file as configuration
from proxyd.config import (
    Config,
    ConfigError,
    FirewallConfig,
    FirewallDeviceConfig,
    LimitsConfig,
    LogConfig,
    LogFormat,
    LogLevel,
    MetricsConfig,
    RouteConfig,
    TlsConfig,
)
from proxyd.endpoint import Address
from proxyd.rewrite.policy import ReturnPathPolicy
from proxyd.snapshot import Snapshot

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.toml"
ROUTE = """
[[route]]
name = "lab"
listen = "127.0.0.1:4444"
destination = "dst.example:4445"
"""


def parse(text: str) -> Config:
    return configuration.parse(text.encode(), Path("/etc/proxyd/config.toml"))


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith("/etc/proxyd/config.toml: ")
    return message.removeprefix("/etc/proxyd/config.toml: ")


def test_the_smallest_configuration_has_every_default() -> None:
    config = parse(ROUTE)
    assert config.metrics_address == Address("127.0.0.1", 9469)
    assert config.log.level is LogLevel.INFO
    assert config.log.format is LogFormat.TEXT
    (route,) = config.route
    assert route.listen_endpoint == Address("127.0.0.1", 4444)
    assert route.destination_endpoint == Address("dst.example", 4445)
    assert route.return_path is ReturnPathPolicy.REQUIRE
    assert route.networks == ()
    assert route.allowed_registers == frozenset()
    assert (route.profile, route.destination_host) == (None, None)


def test_everything_can_be_said() -> None:
    config = parse(
        """
        [metrics]
        listen = "[::1]:9999"
        [log]
        level = "debug"
        format = "json"
        [limits]
        header_time_s = 1.5
        connections = 2
        [[route]]
        name = "a"
        listen = "0.0.0.0:4444"
        destination = "[2001:db8::1]:4445"
        profile = "profiles/a.toml"
        destination_host = "/srv/b.json"
        allow = ["TCR2_EL1", "0x603000000013c513"]
        return_path = "optional"
        source_networks = ["192.0.2.0/24", "2001:db8::/32"]
        """
    )
    (route,) = config.route
    assert config.metrics_address == Address("::1", 9999)
    assert config.log.format is LogFormat.JSON
    assert config.limits.header_time_s == 1.5
    assert config.limits.connections == 2
    assert route.destination_endpoint == Address("2001:db8::1", 4445)
    assert config.relative(route.profile) == Path("/etc/proxyd/profiles/a.toml")
    assert config.relative(route.destination_host) == Path("/srv/b.json")
    assert route.allowed_registers == {0x603000000013C103, 0x603000000013C513}
    assert route.return_path is ReturnPathPolicy.OPTIONAL
    assert route.networks == (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "route: expected at least one [[route]] table"),
        ("route = 1", "route: expected at least one [[route]] table"),
        ("route = [1]", "route[0]: expected a table, found 1"),
        ("log = 1" + ROUTE, "log: expected a table, found 1"),
        ("[log", "not TOML: expected ']' at the end of a table declaration (at end of document)"),
        (
            "[limit]" + ROUTE,
            "limit: unknown key; did you mean limits? (accepted here: metrics, log, limits, rehearsal, control, recorder, audit, route)",  # noqa: E501
        ),
        (
            ROUTE + "rehearse = true",
            (
                "route[0].rehearse: expected a destination_host or a profile beside it: "
                "without one nothing is planned to be rehearsed"
            ),
        ),
        (
            "[rehearsal]\nsocket = 'rehearse.sock'" + ROUTE,
            "rehearsal.socket: expected the absolute path of a UNIX socket, found 'rehearse.sock'",
        ),
        ("[rehearsal]\nanswer_time_s = 0" + ROUTE, "rehearsal.answer_time_s: expected `float` > 0.0".replace("`", "")),
        (
            "colour = 1" + ROUTE,
            "colour: unknown key (accepted here: metrics, log, limits, rehearsal, control, recorder, audit, route)",
        ),
        (
            "[log]\nlevle = 'info'" + ROUTE,
            "log.levle: unknown key; did you mean level? (accepted here: level, format)",
        ),
        (
            "[log]\nlevel = 'loud'" + ROUTE,
            "log.level: invalid enum value 'loud' (accepted: debug, info, warning, error)",
        ),
        ("[log]\nlevel = 1" + ROUTE, "log.level: expected str, got int"),
        ("[limits]\nsections = 'x'" + ROUTE, "limits.sections: expected int, got str"),
        ("[limits]\nsections = 0" + ROUTE, "limits.sections: expected int >= 1"),
        ("[limits]\nconnections = 5000" + ROUTE, "limits.connections: expected int <= 2048"),
        ("[limits]\nidle_time_s = 0" + ROUTE, "limits.idle_time_s: expected float > 0.0"),
        ("[[route]]\nname = 'a'", "route[0]: object missing required field listen"),
        (ROUTE + "allow = 1", "route[0].allow: expected array, got int"),
        (ROUTE + "allow = [1]", "route[0].allow[0]: expected str, got int"),
        (
            ROUTE + "return_path = 'maybe'",
            "route[0].return_path: invalid enum value 'maybe' (accepted: require, optional)",
        ),
        (
            ROUTE.replace("lab", "Lab 1"),
            "route[0].name: expected 1 to 63 of a-z 0-9 _ . - starting with a letter or digit, found 'Lab 1'",
        ),
        (
            ROUTE + ROUTE.replace("4444", "4446"),
            "route[1].name: 'lab' is already the name of route[0]; names are unique",
        ),
        (
            ROUTE + ROUTE.replace("lab", "other"),
            (
                "route[1].listen: 127.0.0.1:4444 cannot be bound beside route[0].listen = 127.0.0.1:4444; "
                "addresses are unique"
            ),
        ),
        (
            ROUTE + ROUTE.replace("lab", "other").replace("127.0.0.1:", "0.0.0.0:"),
            (
                "route[1].listen: 0.0.0.0:4444 cannot be bound beside route[0].listen = 127.0.0.1:4444; "
                "addresses are unique"
            ),
        ),
        (
            ROUTE.replace("4444", "9469"),
            (
                "route[0].listen: 127.0.0.1:9469 cannot be bound beside metrics.listen = 127.0.0.1:9469; "
                "addresses are unique"
            ),
        ),
        (
            ROUTE.replace("dst.example:4445", "127.0.0.1:4444"),
            "route[0].destination: 127.0.0.1:4444 is route[0].listen: the route would lead back into proxyd",
        ),
        (
            ROUTE.replace("127.0.0.1:4444", "unix:run/x"),
            "route[0].listen: expected unix:/ABSOLUTE/PATH, found 'unix:run/x'",
        ),
        (
            ROUTE.replace("127.0.0.1:4444", "/run/x").replace("dst.example:4445", "original"),
            "route[0].destination: expected an address: what comes in through a UNIX socket has no original one",
        ),
        (
            ROUTE.replace("127.0.0.1:4444", "127.0.0.1:40-49").replace("dst.example:4445", "127.0.0.1:44"),
            "route[0].destination: 127.0.0.1:44 is route[0].listen: the route would lead back into proxyd",
        ),
        (
            ROUTE + "[route.tls]\n",
            "route[0].tls: expected source or destination in it, the directories of certificates for those legs",
        ),
        (
            ROUTE + "[route.tls]\ndestination = '/x'\nsource_identities = ['CN=a']",
            "route[0].tls.source_identities: expected tls.source beside it: that leg is plain",
        ),
        (
            ROUTE + "[route.tls]\nsource = '/x'\nverify_source = false\nsource_identities = ['CN=a']",
            (
                "route[0].tls.source_identities: expected verify_source = true beside it: who shows no certificate "
                "has no identity"
            ),
        ),
        (
            ROUTE + "[route.firewall]\nmode = 'denied'",
            "route[0].firewall.mode: invalid enum value 'denied' (accepted: off, alert, deny)",
        ),
        (
            ROUTE + "[[route.firewall.device]]\nsection = 'a'\nbyte = 1",
            (
                "route[0].firewall.device[0].byte: unknown key; did you mean bytes? "
                "(accepted here: section, bytes, instances)"
            ),
        ),
        (
            ROUTE + "[route.firewall]\ndevice = ['cpu']",
            "route[0].firewall.device[0]: expected object, got str",
        ),
        (
            ROUTE + "[[route.firewall.device]]\nbytes = 1",
            "route[0].firewall.device[0]: object missing required field section",
        ),
        (
            ROUTE + "[route.firewall]\nsection_bytes = 0",
            "route[0].firewall.section_bytes: expected int >= 1",
        ),
        (
            ROUTE + "[route.firewall]\nsection = []",
            (
                "route[0].firewall.section: unknown key; did you mean sections? "
                "(accepted here: mode, sections, section_bytes, instances, known_bad, device)"
            ),
        ),
        (
            ROUTE + "[route.tls]\nsource = '/x'\nhostname = 'a'",
            "route[0].tls.hostname: expected tls.destination beside it: that leg is plain",
        ),
        (
            "[control]\nsocket = 'x'" + ROUTE,
            "control.socket: expected the absolute path of a UNIX socket, found 'x'",
        ),
        (
            ROUTE.replace("127.0.0.1:4444", "4444"),
            "route[0].listen: expected host:port or [ipv6]:port, found '4444'",
        ),
        (
            ROUTE.replace("127.0.0.1:4444", "::1:4444"),
            "route[0].listen: expected host:port or [ipv6]:port, found '::1:4444'",
        ),
        (
            ROUTE.replace("127.0.0.1:4444", "localhost:4444"),
            "route[0].listen: expected an IP address before the port, found 'localhost:4444'",
        ),
        (
            ROUTE.replace("127.0.0.1:4444", "127.0.0.1:65536"),
            "route[0].listen: expected a port from 0 to 65535 after the colon, found '127.0.0.1:65536'",
        ),
        (
            ROUTE.replace("127.0.0.1:4444", "127.0.0.1:x"),
            "route[0].listen: expected a port from 0 to 65535 after the colon, found '127.0.0.1:x'",
        ),
        (
            ROUTE.replace("dst.example:4445", "dst.example:0"),
            "route[0].destination: expected a port from 1 to 65535, found 'dst.example:0'",
        ),
        (
            "[metrics]\nlisten = 'any:1'" + ROUTE,
            "metrics.listen: expected an IP address before the port, found 'any:1'",
        ),
        (
            ROUTE + "source_networks = ['192.0.2.1/24']",
            (
                "route[0].source_networks[0]: expected a network such as 192.0.2.0/24 or 2001:db8::/32: "
                "192.0.2.1/24 has host bits set"
            ),
        ),
    ],
)
def test_each_mistake_is_named_by_key_and_by_what_is_accepted(text: str, expected: str) -> None:
    assert complaint(text) == expected


def test_an_unknown_register_is_named() -> None:
    message = complaint(ROUTE + "allow = ['TCR2_EL1', 'TCR3_EL1']")
    assert message.startswith("route[0].allow[1]: ")
    assert "TCR3_EL1" in message


def test_bytes_that_are_not_text_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.parse(b"ab\xff", Path("x.toml"))
    assert str(caught.value) == "x.toml: expected UTF-8, found byte 0xff at 0x2"
    assert (caught.value.file, caught.value.key) == ("x.toml", "")


def test_loading_reads_the_file_and_remembers_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(ROUTE)
    assert configuration.load(path).path == path


def test_a_file_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        configuration.load(tmp_path / "nothing.toml")


@pytest.mark.parametrize("other", ["[::]:4444", "127.0.0.2:4444", "127.0.0.1:4445"])
def test_addresses_that_do_not_collide(other: str) -> None:
    two = ROUTE + ROUTE.replace("lab", "other").replace("127.0.0.1:4444", other)
    assert len(parse(two).route) == 2


def test_port_0_never_collides() -> None:
    two = ROUTE.replace("4444", "0")
    assert len(parse(two + two.replace("lab", "other")).route) == 2


def test_the_manual_has_every_limit() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text().partition("## Limits")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \| ", manual, re.MULTILINE)
    assert sorted(documented) == sorted(LimitsConfig.__struct_fields__)


# config.example.toml.

# What has no default: a route's own facts, and the files.
_GIVEN = {"name", "listen", "destination", "profile", "destination_host", "source_networks", "tls", "firewall"}
_GIVEN_TLS = {"source", "destination", "source_identities", "hostname"}


def _uncommented() -> str:
    """The example with the keys and tables that are there in comments, because they name files."""
    return re.sub(r"^# (\w+ = .+|\[+[\w.]+\]+)$", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)


def _tables() -> list[tuple[str, dict[str, Any], type[msgspec.Struct]]]:
    document = tomllib.loads(_uncommented())
    assert document.keys() == set(Config.__struct_fields__) - {"path"}
    return [
        ("metrics", document["metrics"], MetricsConfig),
        ("log", document["log"], LogConfig),
        ("limits", document["limits"], LimitsConfig),
        ("route", document["route"][0], RouteConfig),
        ("tls", document["route"][0]["tls"], TlsConfig),
        ("firewall", document["route"][0]["firewall"], FirewallConfig),
        ("device", document["route"][0]["firewall"]["device"][0], FirewallDeviceConfig),
    ]


@pytest.mark.parametrize("index", range(7))
def test_the_example_has_every_key_with_its_default(index: int) -> None:
    name, table, kind = _tables()[index]
    assert list(table) == list(kind.__struct_fields__), name
    for field in msgspec.structs.fields(kind):
        if field.name in {
            "route": _GIVEN,
            "tls": _GIVEN_TLS,
            "firewall": {"sections", "device"},
            "device": {"section", "bytes", "instances"},
        }.get(name, set()):
            continue
        given = table[field.name]
        assert (tuple(given) if isinstance(given, list) else given) == field.default, field.name


def test_the_example_is_accepted() -> None:
    assert configuration.parse(_uncommented().encode(), EXAMPLE).route[0].networks


def test_the_example_as_it_is_shipped_is_one_that_the_daemon_runs_with() -> None:
    assert Snapshot.build(configuration.load(EXAMPLE)).routes[0].policy.destination is None
