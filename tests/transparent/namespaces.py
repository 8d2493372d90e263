"""Two hosts with a network between them, made of namespaces: nothing of this machine's own network is touched.

They live in a user namespace of their own, so everybody may run these tests, and they end with the process that holds
them. Each is ``source`` or ``destination``; the addresses are those of docs/operations.md (RFC 5737, RFC 3849).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.qemu.versions import Version

# Where Debian has ip and nft, which is not on the PATH of everybody.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

NETWORKS = {4: "192.0.2.0/24", 6: "2001:db8::/64"}
SOURCE = {4: "192.0.2.1", 6: "2001:db8::1"}
DESTINATION = {4: "192.0.2.2", 6: "2001:db8::2"}


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace, and the process that holds it."""

    pid: int

    def command(self, *argv: str) -> list[str]:
        """Return the arguments that start *argv* on this host."""
        return ["nsenter", f"--target={self.pid}", "--user", "--net", "--preserve-credentials", "--", *argv]

    def run(self, *argv: str, stdin: str = "") -> str:
        """Run *argv* on this host to its end and return what it printed. A failure is one of the test."""
        done = subprocess.run(
            self.command(*argv),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PATH": PATH},
        )
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout


@dataclass(frozen=True, slots=True)
class Placed(Version):
    """A QEMU that runs on one of the hosts."""

    host: Host

    def command(self) -> list[str]:
        """Return the argument list that starts it there."""
        return self.host.command(*Version.command(self))


def place(version: Version, host: Host) -> Placed:
    """Return *version* to be run on *host*."""
    return Placed(version.name, version.suites, version.machine, host)


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """The source and the destination, joined by a cable and with addresses of both kinds."""
    for program, package in {"ip": "iproute2", "nft": "nftables", "unshare": "util-linux"}.items():
        if shutil.which(program, path=PATH) is None:
            pytest.fail(f"{program} expected on this machine: apt-get install {package}")
    with (
        _held(["unshare", "--map-root-user", "--net"]) as destination,
        _held(destination.command("unshare", "--net")) as source,
    ):
        destination.run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(source.pid))
        for host, addresses in ((destination, DESTINATION), (source, SOURCE)):
            for version, network in NETWORKS.items():
                # Without duplicate address detection: nobody else is on this cable.
                detection = ["nodad"] if version == 6 else []
                length = network.partition("/")[2]
                host.run("ip", "address", "add", f"{addresses[version]}/{length}", "dev", "cable", *detection)
            for interface in ("lo", "cable"):
                host.run("ip", "link", "set", interface, "up")
        yield source, destination


@contextmanager
def _held(prefix: list[str]) -> Iterator[Host]:
    """A namespace that *prefix* makes, for as long as the context lasts."""
    holder = subprocess.Popen(
        [*prefix, "sh", "-c", "echo made; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "made\n", f"no namespace from {prefix}"
        yield Host(holder.pid)
    finally:
        holder.stdin.close()
        holder.wait(timeout=60)
        holder.stdout.close()
