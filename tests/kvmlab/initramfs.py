"""A host's root file system: busybox, QEMU with its libraries, the programs; and the kernel's own modules."""

import hashlib
import lzma
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.debian.cache import entry
from tests.kvmlab.catalogue import LabError
from tests.kvmlab.cpio import Cpio
from tests.kvmlab.packages import FetchedKernel

INIT = Path(__file__).with_name("inside") / "init"
MODULES = ("virtio_pci", "virtio_net")
"""What the hosts need and some kernels build as modules; what is built in has no file and is passed over."""

EMPTY_DIRECTORIES = ("proc", "sys", "dev", "tmp", "etc", "root")


def base_archive(qemus: Sequence[tuple[str, Path]], programs: Path) -> bytes:
    """Return the part that all kernels share; *qemus* are (series, prefix), the first also has busybox.

    Raises LabError. The archive is cached: reading and packing a QEMU's libraries takes a second or two.
    """
    key = [INIT.read_text(), Path(__file__).read_text(), str(programs), *(str(prefix) for _, prefix in qemus)]
    name = f"kvmlab/base-{hashlib.sha256('|'.join(key).encode()).hexdigest()[:16]}"

    def fill(directory: Path) -> None:
        (directory / "base.cpio").write_bytes(_base(qemus, programs))

    return (entry(name, fill) / "base.cpio").read_bytes()


def _base(qemus: Sequence[tuple[str, Path]], programs: Path) -> bytes:
    archive = Cpio()
    for name in EMPTY_DIRECTORIES:
        archive.add_directory(name)
    archive.add_file("init", INIT.read_bytes(), executable=True)
    archive.add_file("bin/busybox", (qemus[0][1] / "usr/bin/busybox").read_bytes(), executable=True)
    archive.add_link("bin/sh", "busybox")
    for program in programs.iterdir():
        archive.add_file(f"lab/{program.name}", program.read_bytes(), executable=True)
    for series, prefix in qemus:
        binary = prefix / "usr/bin/qemu-system-aarch64"
        archive.add_file(f"qemu/{series}/qemu", binary.read_bytes(), executable=True)
        for library, path in libraries(prefix, binary).items():
            archive.add_file(f"qemu/{series}/lib/{library}", path.read_bytes(), executable=True)
    return archive.finish()


def libraries(prefix: Path, binary: Path) -> dict[str, Path]:
    """Return every shared library that *binary* needs, directly or not: name -> file below *prefix*."""
    found: dict[str, Path] = {}
    waiting = [binary]
    while waiting:
        dynamic = subprocess.run(
            ["aarch64-linux-gnu-readelf", "-d", waiting.pop()],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for name in re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic):
            if name in found:
                continue
            places = (prefix / base / "aarch64-linux-gnu" / name for base in ("usr/lib", "lib"))
            path = next((place for place in places if place.exists()), None)
            if path is None:
                raise LabError(f"{binary.name} needs {name}, which is in none of the packages below {prefix}")
            found[name] = path
            waiting.append(path)
    return found


def modules_archive(kernel: FetchedKernel) -> bytes:
    """Return the modules of *kernel* that a host loads, and ``modules/order``, the order to load them in."""
    archive = Cpio()
    add_modules(archive, kernel, MODULES)
    return archive.finish()


def add_modules(archive: Cpio, kernel: FetchedKernel, wanted: Sequence[str]) -> None:
    """Add the *wanted* modules of *kernel* and what they need, and ``modules/order``."""
    files = {_module_name(path.name): path for path in kernel.modules.rglob("*.ko*")}
    contents: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name not in files or name in contents:
            return
        data = files[name].read_bytes()
        if files[name].suffix == ".xz":
            data = lzma.decompress(data)
        depends = re.search(rb"\0depends=([^\0]*)\0", data)  # from the section .modinfo
        for needed in depends.group(1).decode().split(",") if depends else ():
            add(_module_name(needed))
        contents[name] = data

    for module in wanted:
        add(module)
    for name, data in contents.items():
        archive.add_file(f"modules/{name}.ko", data)
    archive.add_file("modules/order", "".join(f"{name}.ko\n" for name in contents).encode())


def _module_name(file_name: str) -> str:
    """``net-failover.ko.xz`` -> ``net_failover``: file names and modinfo do not agree on the dash."""
    return file_name.partition(".")[0].replace("-", "_")
