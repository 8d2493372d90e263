"""A private apt: the machine's mirror, suites of our choice, an empty list of installed packages.

Mirrors what mmdebstrap does before it unpacks anything. apt resolves dependencies, verifies the index's
signature and every download's sha256; this file only writes its configuration and reads its complaints.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.debian.cache import cache_directory, locked

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_HELPER = Path("/usr/lib/apt/apt-helper")
SECONDS = 420
"""Longest time for one call of apt; a download that hangs must not hang the tests."""


class FetchError(Exception):
    """Something could not be had from Debian; the message says what, from which suites, and apt's reason."""


def _run(argv: Sequence[str | Path], *, directory: Path | None = None) -> str:
    """Run one command of apt's and return its output; FetchError carries the lines that say why it failed."""
    try:
        done = subprocess.run(
            argv,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except FileNotFoundError as error:
        raise FetchError(f"{argv[0]} is not there: these tests need Debian's apt and dpkg") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{Path(argv[0]).name} gave no result within {SECONDS} seconds") from error
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        reasons = [line for line in lines if line.startswith(("E:", "Err:", "dpkg-deb: error"))] or lines[-3:]
        raise FetchError("; ".join(reasons) or f"{Path(argv[0]).name} exited with {done.returncode}")
    return done.stdout


def mirror() -> str:
    """Return the Debian mirror that this machine's apt is configured for, ending in a slash."""
    for uri in _run(["apt-get", "indextargets", "--format", "$(REPO_URI)"]).splitlines():
        if uri.rstrip("/").endswith("/debian"):
            return uri.rstrip("/") + "/"
    raise FetchError("apt on this machine has no Debian mirror: none of its sources ends in /debian")


@dataclass(frozen=True, slots=True)
class Apt:
    """An apt that knows *suites* (the first is preferred, as with ``-t``) and the architecture *arch*."""

    suites: tuple[str, ...]
    arch: str
    root: Path

    @classmethod
    def make(cls, suites: Sequence[str], arch: str) -> "Apt":
        """Set up the directories and read the newest indexes; raises FetchError."""
        root = cache_directory() / "apt" / f"{arch}-{'-'.join(suites)}"
        apt = cls(tuple(suites), arch, root)
        with locked(f"apt-{root.name}"):
            (root / "lists" / "partial").mkdir(parents=True, exist_ok=True)
            (root / "archives" / "partial").mkdir(parents=True, exist_ok=True)
            (root / "preferences.d").mkdir(exist_ok=True)
            (root / "status").touch()
            options = f"arch={arch}" + (f" signed-by={KEYRING}" if KEYRING.exists() else "")
            base = mirror()
            (root / "sources.list").write_text(
                "".join(f"{kind} [{options}] {base} {s} main\n" for s in suites for kind in ("deb", "deb-src")),
            )
            try:
                apt.get("update", "-o", "APT::Update::Error-Mode=any")
            except FetchError as error:
                raise FetchError(f"Debian {', '.join(suites)} ({arch}): no index: {error}") from error
        return apt

    def get(self, *arguments: str, directory: Path | None = None) -> str:
        """Run ``apt-get`` with the private configuration and return its output."""
        root = self.root
        settings = {
            "Dir::Etc::sourcelist": root / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": root / "preferences.d",
            "Dir::State": root,
            "Dir::State::lists": root / "lists",
            "Dir::State::status": root / "status",
            "Dir::Cache": root,
            "APT::Architecture": self.arch,
            "APT::Architectures": self.arch,
            "APT::Default-Release": self.suites[0],
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",  # the cache need not be readable for the user _apt
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
            "Acquire::Retries": "3",
        }
        options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        return _run(["apt-get", "-q", *options, *arguments], directory=directory)


def download(uri: str, sha256: str, target: Path) -> None:
    """Fetch *uri* to *target* and check its sha256 sum (hex); raises FetchError and leaves no file."""
    _run([APT_HELPER, "-o", "APT::Sandbox::User=root", "download-file", uri, str(target), f"SHA256:{sha256}"])


def unpack(package: Path, directory: Path) -> None:
    """Unpack the files of one ``.deb`` below *directory*; its scripts do not run."""
    _run(["dpkg-deb", "-x", str(package), str(directory)])
