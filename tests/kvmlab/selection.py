"""matrix.toml as cells: what the whole matrix is, and the chosen part of it that CI runs."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.kvmlab.catalogue import LabError, catalogue
from tests.kvmlab.guest import GuestSpec
from tests.kvmlab.matrix import Cell, parse_pair

TABLE = Path(__file__).with_name("matrix.toml")


def selected(name: str) -> dict[Cell, tuple[str, ...]]:
    """Return the cells of *name*, ``all`` or ``chosen``, with what each must show; raises LabError for unknown ones."""
    table = tomllib.loads(TABLE.read_text())
    known = catalogue()
    kernels = table["kernels"]
    for kernel in kernels:
        known.kernel(kernel)
    cells = {cell: tuple(part.get("shows", ())) for part in table[name] for cell in _cells(part, kernels)}
    for cell in cells:
        known.qemu(cell.guest.qemu)
        for kernel in (cell.source, cell.destination):
            if kernel not in kernels:
                raise LabError(f"{TABLE.name}: {cell.key}: {kernel} is none of {', '.join(kernels)}")
    return cells


def _cells(part: dict[str, Any], kernels: list[str]) -> Iterator[Cell]:
    pairs = [parse_pair(pair) for pair in part["pairs"]] if part["pairs"] != "all" else every_pair(kernels)
    for cpu in part["cpus"]:
        for qemu in part["qemus"]:
            guest = GuestSpec(qemu, part.get("vcpus", 1), part.get("devices", "plain"))
            for source, destination in pairs:
                yield Cell(source, destination, cpu, guest, tuple(part.get("allow", ())))


def every_pair(kernels: list[str]) -> list[tuple[str, str]]:
    """Return all ordered pairs of two different kernels."""
    return [(source, destination) for source in kernels for destination in kernels if source != destination]
