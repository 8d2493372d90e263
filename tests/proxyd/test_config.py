"""The configuration's own properties; what a file may say is in test_config_file.py."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from formats.arm64.register_id import id_of
from proxyd.config import Config, ConfigError, RouteConfig
from proxyd.endpoint import Address, PortRange, SamePort


def test_texts_become_values() -> None:
    route = RouteConfig(
        "a",
        "192.0.2.1:1-2",
        "host.example:same",
        allow=("TCR2_EL1",),
        source_networks=("192.0.2.0/24",),
    )
    assert route.listen_endpoint == PortRange("192.0.2.1", 1, 2)
    assert route.destination_endpoint == SamePort("host.example")
    assert route.allowed_registers == {id_of("TCR2_EL1")}
    assert route.networks == (ipaddress.ip_network("192.0.2.0/24"),)


def test_paths_start_at_the_file() -> None:
    config = Config(path=Path("/etc/proxyd/config.toml"))
    assert config.relative("hosts/a.json") == Path("/etc/proxyd/hosts/a.json")
    assert config.relative("/srv/a.json") == Path("/srv/a.json")
    assert config.metrics_address == Address("127.0.0.1", 9469)


def test_an_error_names_the_file_and_the_key_if_there_is_one() -> None:
    assert str(ConfigError("a.toml", "log.level", "wrong")) == "a.toml: log.level: wrong"
    assert str(ConfigError("a.toml", "", "wrong")) == "a.toml: wrong"
