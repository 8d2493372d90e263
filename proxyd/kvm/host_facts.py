"""What the host says of itself outside KVM: its kernel, its CPUs, its QEMU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

CPUS: Final = Path("/sys/devices/system/cpu")
QEMUS: Final = ("qemu-system-aarch64", "qemu-kvm", "/usr/libexec/qemu-kvm")  # the last: Red Hat's, not in PATH
QEMU_SECONDS: Final = 20

# MIDR_EL1: implementer [31:24], variant [23:20], part [15:4], revision [3:0]. arch/arm64/include/asm/cputype.h
_PARTS: Final = {
    (0x41, 0xD03): "cortex-a53",
    (0x41, 0xD07): "cortex-a57",
    (0x41, 0xD08): "cortex-a72",
    (0x41, 0xD0B): "cortex-a76",
    (0x41, 0xD0C): "neoverse-n1",
    (0x41, 0xD40): "neoverse-v1",
    (0x41, 0xD49): "neoverse-n2",
    (0x41, 0xD4F): "neoverse-v2",
    (0x41, 0xD83): "neoverse-v3ae",
    (0x41, 0xD84): "neoverse-v3",
    (0x41, 0xD8E): "neoverse-n3",
    (0x46, 0x001): "a64fx",
    (0x48, 0xD01): "tsv110",
    (0xC0, 0xAC3): "ampere1",
    (0xC0, 0xAC4): "ampere1a",
}


def kernel_release() -> str:
    """As ``uname -r`` says."""
    return os.uname().release


def cpu_name(midr: int) -> str:
    """What a CPU with this MIDR_EL1 is called, with its variant and revision: ``neoverse-n1 r4p1``."""
    implementer, part = midr >> 24 & 0xFF, midr >> 4 & 0xFFF
    name = _PARTS.get((implementer, part), f"implementer {implementer:#04x} part {part:#05x}")
    return f"{name} r{midr >> 20 & 0xF}p{midr & 0xF}"


def host_midrs(cpus: Path = CPUS) -> tuple[int, ...]:
    """The MIDR_EL1 of every kind of CPU that this host has online, each once, ascending; empty where it is not told.

    With more than one, a vCPU's identity depends on where its QEMU runs (arch/arm64/kernel/cpuinfo.c).
    """
    found = set()
    for path in cpus.glob("cpu[0-9]*/regs/identification/midr_el1"):
        try:
            found.add(int(path.read_text(), 16))
        except OSError:  # the CPU went away just now
            continue
    return tuple(sorted(found))


def qemu_version(candidates: Sequence[str] = QEMUS) -> str | None:
    """The version of the first QEMU that is there and says one, ``10.0.13``; None without."""
    for candidate in candidates:
        program = shutil.which(candidate)
        if program is None:
            continue
        try:
            said = subprocess.run(  # noqa: S603 - fixed names, found by the operator's own PATH
                [program, "--version"],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=QEMU_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        match = re.search(r"version (\d+\.\d+(?:\.\d+)?)", said.stdout)
        if match:
            return match[1]
    return None
