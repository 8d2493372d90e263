"""Building the guests (tests/guest) that count, and reading what they printed, on one machine or across a move."""

import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "guest"


def build(name: str, directory: Path) -> Path:
    """Compile the guest *name* (``counter``: watches registers; ``patterns``: watches RAM); return the ELF image."""
    image = directory / f"{name}.elf"
    subprocess.run(
        [
            *("aarch64-linux-gnu-gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-static"),
            *("-fno-pic", "-fno-stack-protector", "-mstrict-align", "-mgeneral-regs-only"),
            # RAM of the virt machine starts at 0x40000000 with the device tree; one writable segment will do.
            "-Wl,--build-id=none,--no-warn-rwx-segments,-N,-e,start,-Ttext-segment=0x40080000",
            *("-o", str(image), str(SOURCES / f"{name}.c")),
        ],
        check=True,
    )
    return image


def findings(*consoles: bytes | bytearray) -> list[str]:
    """Return what the guest said at each tick, with the output of several machines taken as one.

    Asserts that the count goes 1, 2, 3 … without a gap or a repeat: the guest that the last machine runs is
    the one that the first machine started, at the very instruction where it stopped.
    """
    first, *lines = b"".join(consoles).decode("ascii").split("\n")[:-1]
    assert first == "start", f"guest began with {first!r}"
    counts, said = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert [int(count) for count in counts] == list(range(1, len(lines) + 1)), f"count does not go on: {lines}"
    return list(said)
