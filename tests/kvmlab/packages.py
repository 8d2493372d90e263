"""Kernels and QEMUs out of Debian packages, as paths in the tests' cache."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.debian import FetchError, fetch_prefix
from tests.debian.apt import Apt
from tests.kvmlab.catalogue import Kernel, LabError, Qemu

BUSYBOX = "busybox-static"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FetchedKernel:
    """A kernel: what `uname -r` says, its image, and the directory below which its modules lie."""

    release: str
    image: Path
    modules: Path


def fetch_kernel(kernel: Kernel, progress: Progress) -> FetchedKernel:
    """Get *kernel*, or the newest release of its series when that one is gone; raises LabError."""
    release = kernel.release
    try:
        prefix = _fetch(kernel, release)
    except FetchError as error:
        newest = _newest_release(kernel)
        if newest in (None, release):
            raise LabError(f"kernel {kernel.series}: {error}") from error
        progress(f"kernel {release} is no longer on the mirror, taking {newest}")
        release = newest
        prefix = _fetch(kernel, release)
    images = [*prefix.glob("boot/vmlinuz-*"), *prefix.glob("usr/lib/modules/*/vmlinuz")]
    modules = [*prefix.glob("usr/lib/modules/*/kernel"), *prefix.glob("lib/modules/*/kernel")]
    if not images or not modules:
        raise LabError(f"kernel {release}: its packages have no vmlinuz or no modules")
    return FetchedKernel(modules[0].parent.name, images[0], modules[0])


def _fetch(kernel: Kernel, release: str) -> Path:
    return fetch_prefix(
        kernel.suites,
        "arm64",
        [template.format(release=release) for template in kernel.packages],
        deps=False,  # the hosts have a busybox: no tools that a kernel package wants for installing it
        extra_pool_paths=[template.format(release=release) for template in kernel.pool],
    )


def _newest_release(kernel: Kernel) -> str | None:
    """Ask the mirror's index for the newest release of the series; None when there is none, or it needs the pool.

    ``6.12.107+deb13`` stands for all of ``6.12.[0-9]+\\+deb13``, ``6.1.0-50`` for all of ``6.1.[0-9]+-[0-9]+``.
    """
    if kernel.pool:  # sums are known for one release only
        return None
    numbers, plus, build = kernel.release.removeprefix(kernel.series).partition("+")
    releases = re.escape(kernel.series) + re.sub(r"\d+", "[0-9]+", re.escape(numbers)) + re.escape(plus + build)
    pattern = re.escape(kernel.packages[0]).replace(re.escape("{release}"), f"({releases})")
    try:
        uris = Apt.make(kernel.suites, "arm64").get("download", "--print-uris", f"^{pattern}$")
    except FetchError:
        return None
    found: list[str] = re.findall(rf"(?<= ){pattern}_", uris)
    return max(found, key=lambda release: [int(number) for number in re.findall(r"\d+", release)], default=None)


def fetch_outer_qemu(qemu: Qemu) -> Path:
    """Get a QEMU that runs on this machine and emulates arm64 ones; raises LabError."""
    return _qemu(qemu, "amd64", [])


def fetch_inner_qemu(qemu: Qemu) -> Path:
    """Get a QEMU that runs on the emulated hosts, and the busybox that they run on; raises LabError."""
    return _qemu(qemu, "arm64", [BUSYBOX])


def _qemu(qemu: Qemu, arch: str, more: list[str]) -> Path:
    try:
        return fetch_prefix(qemu.suites, arch, ["qemu-system-arm", *more])
    except FetchError as error:
        raise LabError(f"QEMU {qemu.series}: {error}") from error
