"""Prefixes: Debian packages and their libraries, unpacked side by side in the cache."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.debian.apt import Apt, FetchError, download, mirror, unpack
from tests.debian.cache import entry

LISTING = "proxyd-packages.txt"
"""File in each prefix with the names of the unpacked ``.deb`` files, which hold the versions."""

MULTIARCH = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}


def fetch_prefix(
    suites: Sequence[str],
    arch: str,
    packages: Sequence[str],
    *,
    deps: bool = True,
    extra_pool_paths: Sequence[str] = (),
) -> Path:
    """Return a directory with *packages* unpacked in it, fetching them the first time.

    *suites*: codenames, most wanted first: ``["trixie-backports", "trixie"]``.
    *arch*: Debian architecture of the packages; need not be the machine's own.
    *deps*: with everything the packages depend on (recommended packages never).
    *extra_pool_paths*: packages that the mirror has but its index does not list, each as
    ``pool/main/…/name.deb#sha256=HEX``; the sum is required since no index vouches for them.

    The result never changes once it is there: newer packages come with an empty cache.
    Raises FetchError, naming packages, suites and apt's reason.
    """
    what = f"{', '.join([*packages, *extra_pool_paths])} ({arch}) from Debian {', '.join(suites)}"
    key = hashlib.sha256(json.dumps([list(suites), arch, list(packages), deps, list(extra_pool_paths)]).encode())
    label = "-".join([arch, suites[0], *packages[:2], key.hexdigest()[:8]])

    def fill(directory: Path) -> None:
        try:
            _fill(directory, suites, arch, packages, deps=deps, pool_paths=extra_pool_paths)
        except FetchError as error:
            raise FetchError(f"could not get {what}: {error}") from error

    return entry(f"prefixes/{label}", fill)


def _fill(
    directory: Path,
    suites: Sequence[str],
    arch: str,
    packages: Sequence[str],
    *,
    deps: bool,
    pool_paths: Sequence[str],
) -> None:
    debs = directory / "debs"
    (debs / "partial").mkdir(parents=True)
    if packages:
        apt = Apt.make(suites, arch)
        if deps:
            apt.get("install", "-y", "--download-only", "-o", f"Dir::Cache::archives={debs}", *packages)
        else:
            apt.get("download", *packages, directory=debs)
    for number, path in enumerate(pool_paths):
        location, _, checksum = path.partition("#sha256=")
        if not checksum:
            raise FetchError(f"{location}: expected #sha256=HEX after the path, found none")
        download(mirror() + location, checksum, debs / f"{number}-{Path(location).name}")
    files = sorted(debs.glob("*.deb"))
    for package in packages:
        if not any(file.name.startswith(f"{package}_") for file in files):
            raise FetchError(f"apt brought no {package}")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda file: unpack(file, directory), files))
    (directory / LISTING).write_text("".join(f"{file.name}\n" for file in files))
    shutil.rmtree(debs)


def command_in(prefix: Path, program: str, arch: str = "amd64") -> list[str]:
    """Return the argument list that starts *program* (path below *prefix*) with the prefix's own libraries.

    The prefix's dynamic loader is called by name, so that the machine's own C library does not matter.
    """
    directories = [prefix / base / MULTIARCH[arch] for base in ("usr/lib", "lib")]
    loaders = [path for directory in directories for path in directory.glob("ld-linux-*.so.*") if not path.is_symlink()]
    if not loaders:
        raise FetchError(f"{prefix} has no dynamic loader for {arch}: was it fetched without dependencies?")
    nested = [sub for directory in directories for sub in directory.glob("*/") if any(sub.glob("lib*.so.*"))]
    path = ":".join(str(directory) for directory in [*directories, *nested])
    return [str(loaders[0]), "--library-path", path, str(prefix / program)]
