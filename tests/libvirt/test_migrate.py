"""virsh migrate between two real libvirt: the recipes of docs/operations.md, and the same without proxyd."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.libvirt.daemon import proxyd
from tests.libvirt.host import Host, wait_until
from tests.libvirt.rack import Rack
from tests.qemu.pairs import PMU_CHANGES, TOO_MANY
from tests.recipes import commands, recipe

pytestmark = pytest.mark.qemu

PROFILE = Path(__file__).parent.parent / "qemu" / "profiles" / "without-pmu.toml"
TO_DESTINATION = "qemu+ssh://destination.example/system"

DIRECT = {
    "precopy": [],
    "parallel": ["--parallel", "--parallel-connections", "4"],
    "tls": ["--tls"],
    "p2p": ["--p2p"],
}


def route(name: str, hosts: Rack, extra: str = "") -> str:
    """Return a route of the page: this destination is described by a profile, and its files are elsewhere.

    *extra*: keys for the route.
    """
    of_page = {'destination_host = "/etc/proxyd/hosts/destination.json"': f'profile = "{PROFILE}"\n{extra}'}
    if name == "route tls":
        of_page['"/etc/pki/qemu"'] = f'"{hosts.shared}/proxy.files/etc/pki/qemu"'
    return recipe(name, of_page)


def virsh(name: str) -> list[list[str]]:
    """Return the commands of a recipe of the page; libvirt is reached without ssh."""
    text = recipe(name, {"GUEST": "guest", "qemu+ssh": "qemu+tcp"})
    return [shlex.split(line) for line in commands(text)]


def arrived(hosts: Rack, log: Path) -> None:
    """Assert that the guest went through proxyd, and goes on at the destination."""
    assert hosts.is_intact_at(hosts.destination)
    assert hosts.source.state("guest") == "shut off"
    assert "outcome=completed" in log.read_text()
    assert hosts.said() == {"ok", *(f"id:{register}" for register in PMU_CHANGES)}


@pytest.mark.parametrize("how", DIRECT)
def test_without_proxyd_destination_refuses_and_guest_goes_on(racked: Rack, how: str) -> None:
    said = racked.source.try_run(
        "virsh", "migrate", "--live", *DIRECT[how], "guest", "qemu+tcp://destination.example/system"
    )
    assert said.status == 1
    assert "migration" in said.output
    log = racked.destination.path("/var/log/libvirt/qemu/guest.log").read_text()
    assert re.search(TOO_MANY, re.sub(r"^\S+ qemu-system-aarch64: ", "", log, flags=re.MULTILINE)), log
    assert racked.is_intact_at(racked.source)
    assert racked.destination.state("guest") == "none"
    assert racked.said() == {"ok"}


@pytest.mark.parametrize("how", DIRECT)
def test_back_to_richer_hardware_needs_no_proxyd(racked: Rack, how: str) -> None:
    """The control: libvirt, its TLS and its channels work here by themselves."""
    move = ["virsh", "migrate", "--live", *DIRECT[how], "guest"]
    same = {"/opt/qemu": "/usr/bin/qemu-system-aarch64"}
    xml = racked.shared / "same.xml"
    text = racked.source.virsh("dumpxml", "--migratable", "guest")
    for old, new in same.items():
        assert old in text
        text = text.replace(old, new)
    xml.write_text(text)
    racked.source.run(*move, "qemu+tcp://destination.example/system", "--xml", str(xml))
    assert racked.is_intact_at(racked.destination)
    assert racked.said() == {"ok"}


@pytest.mark.parametrize(
    ("at", "routes", "recipe_name"),
    [
        ("proxy", "route", "virsh precopy"),
        ("proxy", "route", "virsh parallel"),
        ("proxy", "route tls", "virsh tls"),
        ("proxy", "route ports", "virsh ports"),
        ("source", "route source", "virsh source"),
        ("destination", "route destination", "virsh destination"),
    ],
)
def test_recipe(racked: Rack, tmp_path: Path, at: str, routes: str, recipe_name: str) -> None:
    host: Host = getattr(racked, at)
    ((*command,),) = virsh(recipe_name)
    with proxyd(host, tmp_path, route(routes, racked)) as log:
        said = racked.source.try_run(*command)
        assert said.status == 0, said.output + log.read_text() + racked.destination.account()
        arrived(racked, log)


@pytest.mark.parametrize(
    ("routes", "recipe_name", "more"),
    [("route tls", "virsh tls", "--parallel"), ("route", "virsh precopy", "--p2p")],
)
def test_recipe_with_another_option(racked: Rack, tmp_path: Path, routes: str, recipe_name: str, more: str) -> None:
    ((*command,),) = virsh(recipe_name)
    with proxyd(racked.proxy, tmp_path, route(routes, racked)) as log:
        racked.source.run(*command, more)
        arrived(racked, log)


def test_postcopy(racked: Rack, tmp_path: Path) -> None:
    migrate, switch = virsh("virsh postcopy")
    racked.source.virsh("migrate-setspeed", "guest", "1")  # MiB/s, until the switch
    assert migrate.pop() == "&"
    with proxyd(racked.proxy, tmp_path, route("route", racked, 'postcopy = "may-lose-guest"\n')) as log:
        with subprocess.Popen(
            racked.source.command(*migrate), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as running:
            wait_until(lambda: racked.source.try_run(*switch).status == 0, "switch to postcopy", *racked.hosts)
            output, _ = running.communicate()
        assert running.returncode == 0, output.decode() + log.read_text()
        arrived(racked, log)


def test_postcopy_is_refused_by_default_and_guest_goes_on(racked: Rack, tmp_path: Path) -> None:
    migrate, _ = virsh("virsh postcopy")
    assert migrate.pop() == "&"
    with proxyd(racked.proxy, tmp_path, route("route", racked)) as log:
        assert racked.source.try_run(*migrate).status == 1
        assert "outcome=refused" in log.read_text()
        assert racked.is_intact_at(racked.source)
        assert racked.said() == {"ok"}
