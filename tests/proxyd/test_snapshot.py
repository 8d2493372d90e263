"""What a configuration leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd import config_file as configuration
from proxyd.config import ConfigError
from proxyd.endpoint import Address
from proxyd.rewrite.firewall import NO_FIREWALL, DeviceLimit, FirewallMode, FirewallPolicy
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.policy import ReturnPathPolicy, StreamLimits
from proxyd.routes import RehearsalService, SessionTimes
from proxyd.snapshot import Snapshot, remarks

HOST = """{"format": "proxyd-host", "version": 1, "name": "dst", "accelerator": "kvm", "origin": "probe",
"registers": [{"id": "0x603000000013c080", "value": "0x30d00800"}]}"""
PROFILE = """
[[rule]]
kind = "remove"
register = "TCR2_EL1"
reason = "the guest has no FEAT_TCR2"
"""


def build(directory: Path, text: str) -> Snapshot:
    (directory / "host.json").write_text(HOST)
    (directory / "profile.toml").write_text(PROFILE)
    path = directory / "config.toml"
    path.write_text(text)
    return Snapshot.build(configuration.load(path))


ROUTE = """
[[route]]
name = "lab"
listen = "127.0.0.1:4444"
destination = "127.0.0.1:4445"
"""


def test_a_snapshot_has_everything_that_sessions_need(tmp_path: Path) -> None:
    snapshot = build(
        tmp_path,
        """
        [limits]
        header_time_s = 1
        idle_time_s = 2
        hold_idle_time_s = 2.5
        connect_time_s = 3
        device_state_bytes = 4
        sections = 5
        cpregs = 6
        name_bytes = 7
        """
        + ROUTE
        + """
        destination_host = "host.json"
        profile = "profile.toml"
        allow = ["TCR2_EL1"]
        return_path = "optional"
        source_networks = ["127.0.0.0/8"]
        """,
    )
    (route,) = snapshot.routes
    assert (route.name, route.listen, route.destination) == (
        "lab",
        Address("127.0.0.1", 4444),
        Address("127.0.0.1", 4445),
    )
    assert route.times == SessionTimes(header_s=1, idle_s=2, hold_idle_s=2.5, hold_s=60, connect_s=3)
    assert route.stream_limits == StreamLimits(device_state_bytes=4, sections=5, cpregs=6, name_bytes=7)
    assert route.policy.destination.host.name == "dst"
    assert len(route.policy.destination.profile.rules) == 1
    assert route.policy.allow == {0x603000000013C103}
    assert route.policy.return_path is ReturnPathPolicy.OPTIONAL
    assert route.policy.knowledge is Knowledge.builtin()
    assert route.admits("127.0.0.1")
    assert not route.admits("192.0.2.1")
    assert remarks(snapshot) == ()
    assert route.host_file == str(tmp_path / "host.json")


def test_a_route_that_rehearses(tmp_path: Path) -> None:
    (route,) = build(
        tmp_path,
        "[rehearsal]\nsocket = '/run/r.sock'\nanswer_time_s = 3\n"
        + ROUTE
        + "destination_host = 'host.json'\nrehearse = true",
    ).routes
    assert route.rehearsal == RehearsalService("/run/r.sock", 3)
    assert route.policy.rehearse


def test_a_route_rehearses_only_when_it_is_told_to(tmp_path: Path) -> None:
    (route,) = build(tmp_path, ROUTE + "destination_host = 'host.json'").routes
    assert (route.rehearsal, route.policy.rehearse) == (None, False)


def test_the_limits_default_to_the_rewriter_s_own(tmp_path: Path) -> None:
    (route,) = build(tmp_path, ROUTE).routes
    assert route.stream_limits == StreamLimits()


@pytest.mark.parametrize("key", ["profile", "destination_host"])
def test_a_route_may_have_one_of_the_two(tmp_path: Path, key: str) -> None:
    file = "profile.toml" if key == "profile" else "host.json"
    (route,) = build(tmp_path, f"{ROUTE}{key} = '{file}'").routes
    destination = route.policy.destination
    assert (destination.profile is None, destination.host is None) == (key != "profile", key == "profile")


def test_a_route_without_either_rewrites_nothing_and_that_is_remarked(tmp_path: Path) -> None:
    snapshot = build(tmp_path, ROUTE)
    assert snapshot.routes[0].policy.destination is None
    assert remarks(snapshot) == ("route lab: no profile and no destination_host, so nothing is rewritten",)
    assert snapshot.routes[0].host_file is None


def test_what_everybody_may_reach_is_remarked(tmp_path: Path) -> None:
    text = "[metrics]\nlisten = '0.0.0.0:9469'\n" + ROUTE.replace("127.0.0.1:4444", "0.0.0.0:4444")
    snapshot = build(tmp_path, text + "profile = 'profile.toml'")
    assert remarks(snapshot) == (
        "route lab: no source_networks, so anybody who reaches 0.0.0.0:4444 may migrate",
        "metrics.listen: anybody who reaches 0.0.0.0:9469 may read the metrics",
    )


@pytest.mark.parametrize("key", ["profile", "destination_host"])
def test_a_file_that_is_not_there_is_named_with_its_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(tmp_path, f"{ROUTE}{key} = 'nothing'")
    assert str(caught.value) == (
        f"{tmp_path}/config.toml: route[0].{key}: cannot read {tmp_path}/nothing: No such file or directory"
    )


@pytest.mark.parametrize("key", ["profile", "destination_host"])
def test_a_file_that_cannot_be_used_is_named_with_its_key(tmp_path: Path, key: str) -> None:
    (tmp_path / "bad").write_text("{")
    with pytest.raises(ConfigError) as caught:
        build(tmp_path, f"{ROUTE}{key} = 'bad'")
    assert str(caught.value).startswith(f"{tmp_path}/config.toml: route[0].{key}: {tmp_path}/bad: ")


def test_a_route_s_firewall(tmp_path: Path) -> None:
    (route,) = build(tmp_path, ROUTE).routes
    assert route.policy.firewall is NO_FIREWALL
    text = (
        ROUTE
        + """
[route.firewall]
mode = "deny"
sections = ["ram", "cpu*"]
instances = 5
known_bad = false
[[route.firewall.device]]
section = "cpu"
bytes = 1000
"""
    )
    (route,) = build(tmp_path, text).routes
    assert route.policy.firewall == FirewallPolicy(
        FirewallMode.DENY,
        instances=5,
        sections=("ram", "cpu*"),
        devices=(DeviceLimit("cpu", 1000, 4096),),
        known_bad=False,
    )


def test_a_firewall_that_lets_no_memory_through_is_remarked(tmp_path: Path) -> None:
    text = ROUTE + "profile = 'profile.toml'\n[route.firewall]\nsections = ['cpu']\nmode = 'MODE'"
    for mode in ("alert", "deny"):
        assert remarks(build(tmp_path, text.replace("MODE", mode))) == (
            'route lab: firewall.sections has nothing for "ram", which every migration sends',
        )
    assert remarks(build(tmp_path, text.replace("MODE", "off"))) == ()
