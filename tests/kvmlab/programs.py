"""Compile the programs that run inside hosts and guests; the results are kept in the tests' cache."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from tests.debian.cache import entry
from tests.kvmlab.catalogue import LabError

GUESTS = Path(__file__).parents[1] / "guest"
INSIDE = Path(__file__).with_name("inside")
COMPILER = "aarch64-linux-gnu-gcc"
PACKAGES = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"

_BARE_METAL = [
    *("-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-static", "-fno-pic"),
    *("-fno-stack-protector", "-mgeneral-regs-only"),
    "-mstrict-align",  # until the MMU is on, memory is Device memory
    "-Wl,--build-id=none,--no-warn-rwx-segments",
    f"-Wl,-T,{GUESTS / 'kvm_checker.ld'}",
    str(GUESTS / "kvm_checker.c"),
]
_COMMANDS = {
    "checker": _BARE_METAL,
    "plain-checker": ["-DPLAIN=1", *_BARE_METAL],
    "reglist": ["-O2", "-Wall", "-Wextra", "-Werror", "-static", str(INSIDE / "reglist.c")],
}
"""Name of each program -> the compiler's arguments."""

_SOURCES = (GUESTS / "kvm_checker.c", GUESTS / "kvm_checker.ld", INSIDE / "reglist.c", Path(__file__))


def build_programs() -> Path:
    """Return the directory with all programs, compiled when a source has changed; raises LabError."""
    if shutil.which(COMPILER) is None:
        raise LabError(f"{COMPILER} is missing: apt-get install --no-install-recommends {PACKAGES}")
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in _SOURCES)).hexdigest()
    return entry(f"kvmlab/programs-{digest[:16]}", _compile)


def _compile(directory: Path) -> None:
    for name, arguments in _COMMANDS.items():
        argv = [COMPILER, *arguments, "-o", str(directory / name)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise LabError(f"{name} does not compile ({PACKAGES} installed?): {done.stderr.strip()}")
