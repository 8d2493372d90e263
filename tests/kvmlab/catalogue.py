"""lab.toml as typed objects: the kernels, QEMUs and sets of devices that the lab knows."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

TABLE = Path(__file__).with_name("lab.toml")


class LabError(Exception):
    """The lab could not do what was asked; the message is one sentence for the person who asked."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel for emulated hosts; *packages* and *pool* are templates with ``{release}``."""

    series: str
    release: str
    suites: tuple[str, ...]
    packages: tuple[str, ...]
    pool: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Qemu:
    """A QEMU that Debian has for this machine and for arm64; *machine* is what guests are started with."""

    series: str
    suites: tuple[str, ...]
    machine: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything in lab.toml."""

    kernels: Mapping[str, Kernel]
    qemus: Mapping[str, Qemu]
    devices: Mapping[str, tuple[str, ...]]
    cpu: str
    outer: str
    inner: str
    linux: str

    def kernel(self, series: str) -> Kernel:
        """Return the kernel *series*, such as ``6.12``; raises LabError naming those there are."""
        return _pick("kernel", series, self.kernels)

    def qemu(self, series: str) -> Qemu:
        """Return the QEMU *series*, such as ``10.0``; raises LabError naming those there are."""
        return _pick("qemu", series, self.qemus)

    def device_arguments(self, name: str) -> tuple[str, ...]:
        """Return QEMU's arguments for the set of devices *name*; raises LabError naming those there are."""
        return _pick("set of devices", name, self.devices)


def _pick(kind: str, name: str, table: Mapping[str, T]) -> T:
    if name not in table:
        raise LabError(f"no {kind} {name} in {TABLE.name}: expected one of {', '.join(table)}")
    return table[name]


def _kernel(row: Mapping[str, Any]) -> Kernel:
    return Kernel(
        row["series"], row["release"], tuple(row["suites"]), tuple(row["packages"]), tuple(row.get("pool", ()))
    )


@functools.cache
def catalogue() -> Catalogue:
    """Read lab.toml, once."""
    table = tomllib.loads(TABLE.read_text())
    return Catalogue(
        kernels={row["series"]: _kernel(row) for row in table["kernel"]},
        qemus={r["series"]: Qemu(r["series"], tuple(r["suites"]), r["machine"]) for r in table["qemu"]},
        devices={name: tuple(arguments) for name, arguments in table["devices"].items()},
        **table["defaults"],
    )
