"""proxyd installed as on an arm64 host: Debian's Python, the locked arm64 wheels, and a wheel made from this tree.

An archive to boot a host with, beside the others: ``await lab.boot(spec, [proxyd_archive()])``, then
``await host.run("/python/proxyd probe")``.
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.debian import fetch_prefix
from tests.debian.cache import entry
from tests.kvmlab.catalogue import LabError
from tests.kvmlab.cpio import Cpio
from tests.kvmlab.initramfs import libraries

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.txt"

SUITES = ("trixie",)
VERSION = "3.13"
PACKAGES = ("python3.13-minimal", "libpython3.13-stdlib")
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64")

COMMAND = "/python/proxyd"
_SCRIPT = f"""#!/bin/sh
# The prefix's own loader: the host's root file system has no C library.
export PYTHONHOME=/python PYTHONPATH=/python/site
exec /python/lib/ld-linux-aarch64.so.1 --library-path /python/lib /python/bin/python{VERSION} -m proxyd.cli "$@"
"""

# Of the standard library: what no command needs, and what needs libraries that are large.
_LEFT_OUT = frozenset(
    {"__pycache__", "test", "idlelib", "tkinter", "turtledemo", "ensurepip", "pydoc_data", "sqlite3", "dbm", "curses"}
)
_EXTENSIONS_LEFT_OUT = ("_sqlite3.", "_dbm.", "_gdbm.", "_curses", "readline.", "_tkinter.")


def proxyd_archive() -> bytes:
    """Return the archive; everything but proxyd itself is cached. Raises LabError, FetchError."""
    return _python_archive() + _proxyd()


def _python_archive() -> bytes:
    prefix = fetch_prefix(SUITES, "arm64", PACKAGES)
    key = hashlib.sha256(b"\0".join([LOCK.read_bytes(), Path(__file__).read_bytes(), str(prefix).encode()]))

    def fill(directory: Path) -> None:
        with tempfile.TemporaryDirectory() as site:
            _install_locked(Path(site))
            (directory / "python.cpio").write_bytes(_pack(prefix, Path(site)))

    return (entry(f"kvmlab/python-{key.hexdigest()[:16]}", fill) / "python.cpio").read_bytes()


def _install_locked(site: Path) -> None:
    """The wheels that a Python of this version on arm64 would install from the lock."""
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    _pip(
        *("install", "--target", str(site), "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile"),
        *(*platforms, "--python-version", VERSION, "--implementation", "cp", "-r", str(LOCK)),
    )


def _pack(prefix: Path, site: Path) -> bytes:
    archive = Cpio()
    binary = prefix / f"usr/bin/python{VERSION}"
    archive.add_file(f"python/bin/{binary.name}", binary.read_bytes(), executable=True)
    archive.add_file(COMMAND.removeprefix("/"), _SCRIPT.encode(), executable=True)
    standard = prefix / f"usr/lib/python{VERSION}"
    extensions = [
        path for path in (standard / "lib-dynload").iterdir() if not path.name.startswith(_EXTENSIONS_LEFT_OUT)
    ]
    needed: dict[str, Path] = {}
    for program in (binary, *extensions, *site.rglob("*.so")):
        needed |= libraries(prefix, program)
    for name, path in needed.items():
        archive.add_file(f"python/lib/{name}", path.read_bytes(), executable=True)
    for path in sorted(standard.rglob("*")):
        below = path.relative_to(standard)
        if path.is_file() and not _LEFT_OUT & set(below.parts) and not path.name.startswith(_EXTENSIONS_LEFT_OUT):
            archive.add_file(f"python/lib/python{VERSION}/{below}", path.read_bytes())
    for path in sorted(site.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            archive.add_file(f"python/site/{path.relative_to(site)}", path.read_bytes())
    return archive.finish()


def _proxyd() -> bytes:
    """What the wheel holds, as it would be installed."""
    archive = Cpio()
    with tempfile.TemporaryDirectory() as directory:
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, str(ROOT))
        (wheel,) = Path(directory).glob("proxyd-*.whl")
        with zipfile.ZipFile(io.BytesIO(wheel.read_bytes())) as packed:
            for name in packed.namelist():
                archive.add_file(f"python/site/{name}", packed.read(name))
    return archive.finish()


def _pip(*arguments: str) -> None:
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        lines = done.stderr.splitlines()
        reasons = [line.strip(" ╰─>") for line in lines if "error" in line.lower()] or lines[-1:]
        raise LabError(f"pip {arguments[0]}: {'; '.join(reasons)} (./check makes an environment that has all of it)")
