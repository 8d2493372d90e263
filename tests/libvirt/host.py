"""Hosts with Debian's libvirt, side by side on one machine: each has its own root, network, name and processes.

A host is a set of Linux namespaces whose root is put together from Debian packages (unpacked in the cache, read-only)
and its own ``/etc``, ``/run`` and ``/var`` in memory. Its libvirtd listens on TCP for the other host's virsh. Hosts
reach each other over a bridge in one of them, and nothing else. Everything ends with the context: the processes of a
host live in one PID namespace, whose first process is killed.

What it is not: a host with KVM. Guests run under TCG.
"""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.debian import fetch_prefix

SECONDS = 60
"""Longest wait for anything; normal is about one second, but the machine may be busy."""

PACKAGES = ("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients", "qemu-system-arm", "dash", "coreutils")
COMPRESSORS = ("gzip", "zstd")
"""Programs that libvirt pipes save images through."""

SETUP = """\
set -eu
mount --make-rprivate /
mount -t tmpfs -o size=512m root "$ROOT"
cd "$ROOT"
mkdir dev etc proc run sys tmp usr var root
for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
mount --bind -o ro "$PREFIX/usr" usr
cp -a "$PREFIX/etc/." etc
cp -a "$PREFIX/var/." var
rm -rf var/run
ln -s ../run var/run
mkdir -p var/log/libvirt/qemu var/lib/libvirt/qemu/save var/cache/libvirt "./$SHARED" "$SHARED/$NAME.saved"
mount --bind "$SHARED/$NAME.saved" var/lib/libvirt/qemu/save
mount --bind "$SHARED" "./$SHARED"
mount -t proc proc proc
mount -t sysfs sys sys
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 pts dev/pts
ln -s pts/ptmx dev/ptmx
echo "$NAME.example" > /proc/sys/kernel/hostname
ip link set lo up
cp -a "$FILES/." .
echo ready
read go
exec chroot . /bin/sh -c "$DAEMON read end"
"""


LIBVIRTD = "libvirtd --listen 2>/var/log/libvirtd.log;"


class HostError(AssertionError):
    """Something on a host went otherwise than it should; says which command, and what it printed."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command on a host printed, and how it ended."""

    status: int
    output: str
    """Standard output and error."""


@dataclass(frozen=True, slots=True)
class Host:
    """A running host."""

    name: str
    address: str
    pid: int
    """Of its first process, as the machine sees it."""
    files: Path
    """What it has over its packages."""

    def path(self, inside: str) -> Path:
        """Return where the machine finds the host's file *inside*."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def network(self) -> list[str]:
        """Return the words before a command that runs in this host's network, with the machine's files.

        Of the host's files it has ``/etc/hosts``, so that names mean the same.
        """
        with_hosts = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"']
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *with_hosts, str(self.files / "etc/hosts")]

    def command(self, *words: str) -> list[str]:
        """Return the machine's command that runs a program of the host's."""
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin", "LC_ALL=C"]
        return ["nsenter", "--target", str(self.pid), *namespaces, "--", *environment, *words]

    def try_run(self, *words: str) -> Said:
        """Run a program of the host's to its end."""
        done = subprocess.run(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * SECONDS,
        )
        return Said(done.returncode, done.stdout)

    def run(self, *words: str) -> str:
        """Run a program of the host's that has to succeed; return what it printed."""
        said = self.try_run(*words)
        if said.status:
            raise HostError(f"{self.name}: {' '.join(words)}: exit status {said.status}\n{said.output}{self.account()}")
        return said.output

    @property
    def saved(self) -> Path:
        """Return where the machine finds the images of ``virsh managedsave``."""
        return self.files.with_name(f"{self.name}.saved")

    def virsh(self, *words: str) -> str:
        """Run ``virsh`` on this host's libvirt; it has to succeed."""
        return self.run("virsh", *words)

    def state(self, guest: str) -> str:
        """Return what libvirt says of *guest*: running, paused, shut off, or that there is none."""
        said = self.try_run("virsh", "domstate", guest)
        return said.output.strip() if said.status == 0 else "none"

    def console(self) -> bytes:
        """Return what guests printed on this host."""
        path = self.path("/var/log/console")
        return path.read_bytes() if path.exists() else b""

    def account(self) -> str:
        """Return the logs, for failure messages."""
        logs = [self.path("/var/log/libvirtd.log"), *self.path("/var/log/libvirt/qemu").glob("*.log")]
        return "".join(f"--- {self.name} {log.name}\n{log.read_text()[-3000:]}\n" for log in logs if log.exists())

    def ticks(self, number: int) -> None:
        """Wait until a guest has printed *number* more lines on this host."""
        wanted = self.console().count(b"\n") + number
        wait_until(lambda: self.console().count(b"\n") >= wanted, f"{self.name}: tick of the guest", self)


def wait_until(condition: Callable[[], bool], what: str, *hosts: Host) -> None:
    """Return once *condition* holds; looks at it often.

    Raises HostError, with the hosts' logs, if it does not within SECONDS.
    """
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise HostError(f"no {what} within {SECONDS} seconds\n{''.join(host.account() for host in hosts)}")
        time.sleep(0.02)


def prefix() -> Path:
    """Return Debian 13's libvirt 11.3 with QEMU 10.0, and all they depend on; fetches it the first time."""
    return fetch_prefix(("trixie",), "amd64", [*PACKAGES, *COMPRESSORS])


@contextmanager
def host(name: str, address: str, files: Path, shared: Path, bridge: Host | None) -> Iterator[Host]:
    """Start a host; its libvirt is ready when the context begins.

    *address*: its IPv4 address, in the network that all hosts share. *files*: copied over its root, ``etc/...``.
    *shared*: a directory that it sees under the same path as the machine. *bridge*: the host that has the bridge;
    None makes this one have it, and no libvirt.
    """
    root = shared / f"{name}.root"
    root.mkdir()
    namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child"]
    process = subprocess.Popen(
        ["unshare", *namespaces, "sh", "-c", SETUP],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "NAME": name,
            "ROOT": str(root),
            "PREFIX": str(prefix()),
            "SHARED": str(shared),
            "FILES": str(files),
            "DAEMON": LIBVIRTD if bridge else "",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise HostError(f"{name}: could not be set up (root is needed): exit status {process.wait()}")
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        one = Host(name, address, int(child), files)
        _connect(one, bridge)
        process.stdin.write("go\n")
        process.stdin.flush()
        if bridge is not None:
            wait_until(lambda: one.try_run("virsh", "uri").status == 0, f"{name}: libvirtd", one)
        yield one
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def _connect(one: Host, bridge: Host | None) -> None:
    """Give *one* its address, on the bridge or as the bridge."""
    commands: list[tuple[Host, Sequence[str]]]
    if bridge is None:
        commands = [(one, ["link", "add", "name", "migration", "type", "bridge"])]
    else:
        peer = ["peer", "name", one.name, "netns", str(bridge.pid)]
        commands = [
            (one, ["link", "add", "name", "migration", "type", "veth", *peer]),
            (bridge, ["link", "set", one.name, "up", "master", "migration"]),
        ]
    commands += [
        (one, ["address", "add", f"{one.address}/24", "dev", "migration"]),
        (one, ["link", "set", "migration", "up"]),
    ]
    for where, words in commands:
        subprocess.run([*where.network(), "ip", *words], check=True)
