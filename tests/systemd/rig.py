"""A machine with a real systemd inside this one: Debian's own, as PID 1 of its own namespaces, proxyd as its service.

The rig has its own processes, mounts, host name, IPC and control groups (version 2; systemd is the root of its own).
Its root is put together in memory: the machine's ``/usr`` (read-only) and a few files in ``/etc``, so that nothing that
a systemd does when it starts reaches the machine: tmpfiles, sysctl (``/proc/sys`` is read-only there), a host name. Of
units it knows those of ``systemd/`` as they are shipped, the journal's, and empty targets. The network is the
machine's, so a test talks to the service over the loopback addresses.

What is added to the shipped units is a drop-in each: where Python and this tree are. No sandbox option is switched off.

What it is not: a machine with limits on memory or tasks (MemoryMax=, TasksMax=), unless the machine's control groups of
version 2 have those controllers. Root is needed. Everything ends with the context: the rig's first process is killed,
and the kernel takes the rest along; it does so too when the process that began the context is killed.

Where hundreds of restarts are wanted, or there is no systemd, :mod:`tests.systemd.store` stands in for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

SECONDS: Final = 60
"""Longest wait for anything; normal is a tenth of a second, but the machine may be busy."""

PROGRAMS: Final = {
    "/lib/systemd/systemd": "systemd",
    "/lib/systemd/systemd-journald": "systemd",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "pivot_root": "util-linux",
}
"""What it takes of this machine, and the Debian packages that have it."""

PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"

TREE: Final = Path(__file__).parents[2]

UNITS: Final = ("proxyd.service", "proxyd-rehearse.socket", "proxyd-rehearse@.service")
TARGETS: Final = ("sysinit", "basic", "sockets", "shutdown", "network-online", "multi-user")
JOURNAL: Final = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")

CONFIG: Final = "/etc/proxyd/config.toml"

# The machine's clock, modules, kernel log and audit are no business of the rig's, root or not.
DROPPED: Final = "-sys_module,-sys_time,-sys_boot,-syslog,-audit_control,-audit_read,-audit_write,-mac_admin"

LAUNCH: Final = """\
set -eu
echo $$ > "$GROUP/cgroup.procs"
exec setpriv --pdeathsig KILL \
    unshare --mount --uts --ipc --pid --cgroup --fork --kill-child sh -c "$SETUP"
"""
"""Its control group first, which becomes the root of its namespace of them. It ends when its parent does."""

SETUP: Final = """\
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 rig "$ROOT"
cd "$ROOT"
mkdir dev etc old proc run sys tmp usr var opt opt/tree opt/site opt/python
for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
seen() { mount --rbind "$1" "$2"; mount -o remount,bind,ro "$2"; }
seen /usr usr
seen "$TREE" opt/tree
seen "$SITE" opt/site
seen "$PYTHON" opt/python
mount -t proc proc proc
seen proc/sys proc/sys
mount -t sysfs -o ro sys sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for name in run var dev; do mount -t tmpfs -o mode=755 "$name" "$name"; done
mount -t tmpfs -o mode=1777 tmp tmp
mkdir dev/pts dev/shm var/lib var/log
mkdir -m 1777 var/tmp
ln -s ../run var/run
node() { mknod -m 666 "dev/$1" c "$2" "$3"; }
node null 1 3; node zero 1 5; node full 1 7; node random 1 8; node urandom 1 9; node tty 5 0
mount -t devpts -o newinstance,ptmxmode=666 pts dev/pts
ln -s pts/ptmx dev/ptmx
cp -a "$FILES/." .
hostname rig
pivot_root . old
cd /
umount -l old
rmdir old
echo ready
exec >/dev/null 2>&1
exec env -i PATH="$PATH" LC_ALL=C.UTF-8 container=rig SYSTEMD_UNIT_PATH=/etc/systemd/system \
    setpriv --bounding-set "$DROPPED" /lib/systemd/systemd --system --unit=rig.target --show-status=no
"""
"""What becomes of the namespaces' first process; it ends as systemd."""


class RigError(AssertionError):
    """The rig cannot be had, or something in it went otherwise than it should; says what, and what was printed."""


@dataclass(frozen=True, slots=True)
class Said:
    """How a command in the rig ended, and what it printed (standard output and error)."""

    status: int
    output: str


@dataclass(frozen=True, slots=True)
class Rig:
    """A running systemd."""

    pid: int
    """Of systemd, as the machine sees it."""

    @property
    def python(self) -> str:
        """This test's Python, as the rig finds it. Outside its standard library it needs :func:`python_environment`."""
        return _python()

    def path(self, inside: str) -> Path:
        """Where the machine finds the rig's file *inside*."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Make a file of the rig's."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def command(self, *words: str) -> list[str]:
        """The machine's command that runs a program in the rig, as root and outside of every service."""
        namespaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd"]
        environment = ["env", "-i", f"PATH={PATH}", "LC_ALL=C.UTF-8", *python_environment()]
        return [_program("nsenter"), "--target", str(self.pid), *namespaces, "--", *environment, *words]

    def try_run(self, *words: str) -> Said:
        """Run a program in the rig to its end."""
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
        """Run a program in the rig that has to succeed; returns what it printed."""
        said = self.try_run(*words)
        if said.status:
            raise RigError(f"{' '.join(words)}: exit status {said.status}\n{said.output}{self.journal()}")
        return said.output

    def systemctl(self, *words: str) -> str:
        """``systemctl``, which has to succeed."""
        return self.run("systemctl", *words)

    def proxyd(self, *words: str) -> str:
        """A verb of proxyd's, run by root in the rig."""
        return self.run(*proxyd(), *words)

    def show(self, what: str, unit: str = "proxyd.service") -> str:
        """A property of a unit, as systemd has it at this moment: ``MainPID``, ``StatusText``, ``NRestarts`` ..."""
        return self.systemctl("show", "--value", f"--property={what}", unit).strip()

    def journal(self, unit: str | None = None) -> str:
        """What was logged: the messages alone, one a line."""
        which = [] if unit is None else [f"--unit={unit}"]
        return self.try_run("journalctl", "--no-pager", "--output=cat", "--all", *which).output

    def status(self, pid: str) -> dict[str, str]:
        """``/proc/PID/status`` of a process, by the pid that it has in the rig."""
        lines = self.path(f"/proc/{pid}/status").read_text().splitlines()
        return {key: text.strip() for key, _, text in (line.partition(":") for line in lines)}

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Return once *condition* holds; looks at it often. Raises RigError, with the journal, after SECONDS."""
        end = time.monotonic() + SECONDS
        while not condition():
            if time.monotonic() > end:
                raise RigError(f"no {what} within {SECONDS} seconds\n{self.journal()}")
            time.sleep(0.01)


def proxyd() -> list[str]:
    """The words that start this tree's proxyd in the rig."""
    return [_python(), "-m", "proxyd.cli"]


def python_environment() -> list[str]:
    """``NAME=value`` for proxyd in the rig."""
    found = ["PYTHONPATH=/opt/tree:/opt/site", "PYTHONDONTWRITEBYTECODE=1"]
    return found if _is_of_the_system() else [*found, "LD_LIBRARY_PATH=/opt/python/lib"]


@contextmanager
def rig(drop_ins: dict[str, str] | None = None) -> Iterator[Rig]:
    """Start a systemd; it has started when the context begins, and proxyd is not started.

    :param drop_ins: for a unit of :data:`UNITS`, lines of one more drop-in.
    :raises RigError: this machine has not what it takes, and what that is.
    """
    for program in PROGRAMS:
        _program(program)
    if os.geteuid() != 0:
        raise RigError("expected to be root, to make namespaces and mounts")
    with TemporaryDirectory(prefix="proxyd-rig-") as name, _control_group() as group:
        files = Path(name, "files")
        _write_files(files, drop_ins or {})
        root = Path(name, "root")
        root.mkdir()
        process = subprocess.Popen(
            ["sh", "-c", LAUNCH],
            env={
                "PATH": PATH,
                "SETUP": SETUP,
                "GROUP": str(group),
                "ROOT": str(root),
                "FILES": str(files),
                "TREE": str(TREE),
                "SITE": sysconfig.get_path("purelib"),
                "PYTHON": str(root) if _is_of_the_system() else sys.base_prefix,
                "DROPPED": DROPPED,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if said != "ready\n":
                raise RigError(f"the rig could not be set up: {said}{process.stdout.read()}")
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            one = Rig(int(child))
            one.wait_until(lambda: _has_started(one, process), "started systemd")
            yield one
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _has_started(one: Rig, process: subprocess.Popen[str]) -> bool:
    if process.poll() is not None:
        raise RigError(f"systemd ended: exit status {process.returncode}")
    return one.try_run("systemctl", "is-active", "rig.target").output == "active\n"


@contextmanager
def _control_group() -> Iterator[Path]:
    """A control group of version 2 below our own; gone, with all below it, when the context ends."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    where = [words[4] for words in mounts if words[words.index("-") + 1] == "cgroup2"]
    ours = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    if not where or not ours:
        raise RigError("expected control groups of version 2 (a mount of type cgroup2), found none")
    parent = Path(where[0] + ours[0].rstrip("/"))
    for dead in parent.glob("proxyd-rig-*"):
        _remove_group(dead)  # of a process that was killed; one that is in use stays
    group = parent / f"proxyd-rig-{os.getpid()}-{time.monotonic_ns()}"
    try:
        group.mkdir()
    except OSError as error:
        raise RigError(f"{parent}: expected to be able to make a control group: {error.strerror}") from error
    try:
        yield group
    finally:
        end = time.monotonic() + SECONDS
        while not _remove_group(group) and time.monotonic() < end:
            time.sleep(0.01)


def _remove_group(group: Path) -> bool:
    """Remove it with all below it if nobody is in them; says whether it is gone."""
    below = [Path(path) for path, _, _ in os.walk(group, topdown=False)]
    for one in below:
        with suppress(OSError):
            one.rmdir()
    return not group.exists()


def _write_files(files: Path, drop_ins: dict[str, str]) -> None:
    units = files / "etc/systemd/system"
    units.mkdir(parents=True)
    for target in TARGETS:
        (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (units / "rig.target").write_text(f"[Unit]\nDefaultDependencies=no\nWants={' '.join(JOURNAL)}\n")
    for unit in JOURNAL:
        shutil.copy(Path("/lib/systemd/system", unit), units)
    environment = f"Environment={' '.join(python_environment())}\n"
    starts = {"proxyd.service": f"serve --config {CONFIG}", "proxyd-rehearse@.service": "rehearsal-service"}
    for unit in UNITS:
        shutil.copy(TREE / "systemd" / unit, units)
        directory = units / f"{unit}.d"
        directory.mkdir()
        if unit in starts:
            start = " ".join([*proxyd(), starts[unit]])
            (directory / "10-rig.conf").write_text(f"[Service]\nExecStart=\nExecStart={start}\n{environment}")
        if unit in drop_ins:
            (directory / "20-test.conf").write_text(drop_ins[unit])
    etc = files / "etc"
    (etc / "proxyd").mkdir()
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    groups = ("root:0", "kvm:100", "proxyd-rehearse:101", "systemd-journal:102")
    (etc / "group").write_text("".join(f"{name}:x:{gid}:\n" for name, gid in (group.split(":") for group in groups)))
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
    (etc / "hosts").write_text("127.0.0.1 localhost rig\n")
    (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    if Path("/etc/ld.so.cache").exists():
        shutil.copy("/etc/ld.so.cache", etc)


def _is_of_the_system() -> bool:
    """Whether this Python is below /usr, which the rig has anyway."""
    return Path(sys.executable).resolve().is_relative_to("/usr")


def _python() -> str:
    real = Path(sys.executable).resolve()
    return str(real) if _is_of_the_system() else f"/opt/python/{real.relative_to(Path(sys.base_prefix).resolve())}"


def _program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if found is None:
        raise RigError(f"{name} expected on this machine: apt-get install {PROGRAMS[name]}")
    return found
