"""The Linux guest as files on a host: a kernel, an initramfs with one program, and a disk whose contents are known.

Every host of a run gets the same three, so a QEMU that waits for a migration is started like the one that sends it.
"""

import array
import sys
from pathlib import Path

from tests.kvmlab.cpio import Cpio
from tests.kvmlab.initramfs import add_modules
from tests.kvmlab.packages import FetchedKernel

LINUX = "linux"
"""What the lab calls the guest."""

PROGRAM = "linux-worker"
"""The guest's /init (tests/guest/linux_worker.c), as programs.py calls it."""

MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
EMPTY_DIRECTORIES = ("proc", "sys", "dev")
PLACE = "linux"
"""The directory on the host."""

DISK_BYTES = 1 << 20
DISK_FACTOR = 0x9E3779B97F4A7C15
"""Each 64-bit word of the disk is its number times this, modulo 2**64; the guest computes the same."""

ARGUMENTS = (
    *("-kernel", f"/{PLACE}/image", "-initrd", f"/{PLACE}/initramfs", "-no-reboot"),
    # Warnings, and what is worse, come between the guest's lines. A panic ends QEMU.
    *("-append", "console=ttyAMA0 loglevel=5 panic=-1"),
    # The guest writes nothing but what is there, so that source and destination may each have a copy.
    *("-blockdev", f"driver=file,node-name=linux-disk,filename=/{PLACE}/disk"),
    *("-device", "virtio-blk-pci,drive=linux-disk"),
    *("-netdev", "hubport,id=linux-net0,hubid=100", "-netdev", "hubport,id=linux-net1,hubid=100"),
    *("-device", "virtio-net-pci,netdev=linux-net0,mac=52:54:00:12:34:60,romfile="),
    *("-device", "virtio-net-pci,netdev=linux-net1,mac=52:54:00:12:34:61,romfile="),
)
"""What QEMU is started with on a host that has the files."""


def linux_archive(kernel: FetchedKernel, programs: Path) -> bytes:
    """Return an archive for the hosts with the guest's files; *programs* is what `build_programs` returned."""
    archive = Cpio()
    archive.add_file(f"{PLACE}/image", kernel.image.read_bytes())
    archive.add_file(f"{PLACE}/initramfs", guest_initramfs(kernel, programs))
    archive.add_file(f"{PLACE}/disk", disk())
    return archive.finish()


def guest_initramfs(kernel: FetchedKernel, programs: Path) -> bytes:
    """Return the guest's root file system."""
    archive = Cpio()
    for name in EMPTY_DIRECTORIES:
        archive.add_directory(name)
    archive.add_file("init", (programs / PROGRAM).read_bytes(), executable=True)
    add_modules(archive, kernel, MODULES)
    return archive.finish()


def disk() -> bytes:
    """Return the contents of the disk: little-endian words."""
    words = array.array("Q", (number * DISK_FACTOR % 2**64 for number in range(DISK_BYTES // 8)))
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()
