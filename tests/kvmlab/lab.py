"""One run of the lab. Leaving it ends every host, and with them every guest, whatever happened inside."""

import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from tests.debian import command_in
from tests.kvmlab.catalogue import catalogue
from tests.kvmlab.host import Host, HostSpec
from tests.kvmlab.initramfs import base_archive, modules_archive
from tests.kvmlab.linux_image import linux_archive
from tests.kvmlab.packages import FetchedKernel, Progress, fetch_inner_qemu, fetch_kernel, fetch_outer_qemu
from tests.kvmlab.process import Process
from tests.kvmlab.programs import build_programs


def print_progress(text: str) -> None:
    """Tell on stderr what the lab does, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Images:
    """What is needed to boot hosts, all of it in the cache."""

    outer_command: tuple[str, ...]
    kernels: dict[str, FetchedKernel]
    base: bytes
    linux: bytes = b""


def set_up(
    kernels: Sequence[str],
    progress: Progress,
    *,
    outer: str | None = None,
    inner: Sequence[str] = (),
    linux: bool = False,
) -> Images:
    """Fetch and build what hosts with these *kernels* and *inner* QEMUs need; quick when it is there already.

    *linux*: the hosts get the Linux guest as well.
    Raises LabError, which says what could not be had.
    """
    known = catalogue()
    start = time.monotonic()
    outer_prefix = fetch_outer_qemu(known.qemu(outer or known.outer))
    progress(f"outer QEMU {outer or known.outer} is there ({time.monotonic() - start:.1f} s)")
    qemus = [(series, fetch_inner_qemu(known.qemu(series))) for series in inner or (known.inner,)]
    progress(f"inner QEMU {', '.join(inner or (known.inner,))} is there ({time.monotonic() - start:.1f} s)")
    fetched = {series: fetch_kernel(known.kernel(series), progress) for series in dict.fromkeys(kernels)}
    progress(f"kernels {', '.join(fetched)} are there ({time.monotonic() - start:.1f} s)")
    programs = build_programs()
    base = base_archive(qemus, programs)
    guest = linux_archive(fetch_kernel(known.kernel(known.linux), progress), programs) if linux else b""
    progress(f"programs and root file system are there ({time.monotonic() - start:.1f} s)")
    command = command_in(outer_prefix, "usr/bin/qemu-system-aarch64")
    data = ["-L", str(outer_prefix / "usr/share/qemu")]
    return Images((*command, *data), fetched, base, guest)


class Lab:
    """Hosts, their processes and tasks. Made by `open_lab`."""

    def __init__(self, images: Images, nursery: trio.Nursery, progress: Progress) -> None:
        self._images = images
        self._nursery = nursery
        self.progress = progress
        self._hosts: list[Host] = []

    async def boot(self, spec: HostSpec, more: Sequence[bytes] = ()) -> Host:
        """Boot a host, with *more* archives unpacked; raises LabError with the end of its console if it fails."""
        kernel = self._images.kernels[spec.kernel]
        host = Host(spec, kernel.release, self._nursery)
        self._hosts.append(host)
        archives = (self._images.base, modules_archive(kernel), self._images.linux, *more)
        await host.boot(self._images.outer_command, kernel.image, archives)
        self.progress(f"host {kernel.release} on {spec.cpu}: up after {host.boot_seconds:.1f} s")
        return host

    async def close(self) -> None:
        """End all hosts."""
        async with trio.open_nursery() as nursery:
            for host in self._hosts:
                nursery.start_soon(host.stop)

    def processes(self) -> list[Process]:
        """The processes of all hosts."""
        return [host.process for host in self._hosts if host.process]


@asynccontextmanager
async def open_lab(images: Images, progress: Progress = print_progress) -> AsyncIterator[Lab]:
    """Run a lab; its background tasks and processes end with the block."""
    async with trio.open_nursery() as nursery:
        lab = Lab(images, nursery, progress)
        try:
            yield lab
        finally:
            with trio.CancelScope(shield=True):
                await lab.close()
            nursery.cancel_scope.cancel()
