"""Streams tampered with in one register, as data: what is done, which register must be named, and by whom.

Each kind begins with vCPUs as the destination itself makes them, which load there as they are; so whatever is then
refused is refused for the one edit. Three look at a stream, in this order: the parser (``STREAM``: the list is not one
that QEMU writes), the plan (by the description of the host), and the rehearsal (by the host's KVM).

    tests/integration/test_tampering.py   all kinds, against descriptions of real hosts and a fake kernel
    tests/kvmlab/test_rehearse.py         all kinds, on real kernels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from formats.arm64.register_id import id_of

Arrays = tuple[list[int], list[int]]
"""The two arrays of one vCPU, as the stream has them: ids and values."""


class Catcher(StrEnum):
    """Who refuses."""

    STREAM = "stream"
    PLAN = "plan"
    REHEARSAL = "rehearsal"


STREAM = frozenset({Catcher.STREAM})
PLAN = frozenset({Catcher.PLAN})
BOTH = frozenset({Catcher.PLAN, Catcher.REHEARSAL})

# Linux 6.1 keeps whatever it is given, and shows it to the guest.
KEPT_BY_6_1 = {"6.1": PLAN, "6.12": BOTH, "7.3": BOTH}

ALL_KERNELS = ("6.1", "6.12", "7.3")


@dataclass(frozen=True)
class Tampering:
    """One kind. ``edit`` changes the arrays of two vCPUs in place; ``register`` is the one that must be named.

    ``caught`` says who names it, by kernel where they differ.
    """

    name: str
    register: int
    edit: Callable[[list[Arrays]], None]
    caught: frozenset[Catcher] | Mapping[str, frozenset[Catcher]] = BOTH
    kernels: tuple[str, ...] = ALL_KERNELS

    def catchers(self, kernel: str) -> frozenset[Catcher]:
        """Who names the register on a destination with this kernel."""
        return self.caught if isinstance(self.caught, frozenset) else self.caught[kernel]


def _edit_value(register: int, change: Callable[[int], int], vcpus: tuple[int, ...] = (0, 1)) -> Callable[..., None]:
    def edit(arrays: list[Arrays]) -> None:
        for number in vcpus:
            ids, values = arrays[number]
            place = ids.index(register)
            new = change(values[place])
            assert new != values[place], "an edit that changes nothing shows nothing"
            values[place] = new

    return edit


def _value(
    name: str,
    register: str,
    change: Callable[[int], int],
    caught: frozenset[Catcher] | Mapping[str, frozenset[Catcher]] = BOTH,
    kernels: tuple[str, ...] = ALL_KERNELS,
    vcpus: tuple[int, ...] = (0, 1),
) -> Tampering:
    return Tampering(name, id_of(register), _edit_value(id_of(register), change, vcpus), caught, kernels)


def _insert(more: Mapping[int, int]) -> Callable[[list[Arrays]], None]:
    def edit(arrays: list[Arrays]) -> None:
        for ids, values in arrays:
            assert not set(more) & set(ids)
            merged = sorted([*zip(ids, values, strict=True), *more.items()])
            ids[:] = [register for register, _ in merged]
            values[:] = [value for _, value in merged]

    return edit


def _added(name: str, more: Mapping[int, int], named: int, kernels: tuple[str, ...] = ALL_KERNELS) -> Tampering:
    return Tampering(name, named, _insert(more), BOTH, kernels)


def _removed(name: str, register: str, named: str, caught: frozenset[Catcher]) -> Tampering:
    def edit(arrays: list[Arrays]) -> None:
        for ids, values in arrays:
            place = ids.index(id_of(register))
            del ids[place], values[place]

    return Tampering(name, id_of(named), edit, caught)


def _swap_neighbours(arrays: list[Arrays]) -> None:
    for column in arrays[1]:
        column[10:12] = reversed(column[10:12])


def _repeat(arrays: list[Arrays]) -> None:
    for column in arrays[0]:
        column.insert(20, column[20])


NO_SUCH = 0x6030_0000_0013_C7E7
"""A system register that no kernel lists."""

# Two that only the parser's errors name: the register at that place of the list, whichever it is.
ANY = -1

TAMPERINGS = (
    _added("an unknown id", {NO_SUCH: 1}, NO_SUCH),
    _value("a RES0 bit of an ID register", "ID_AA64ISAR0_EL1", lambda value: value | 1),
    _value("an ID field too high", "ID_AA64ISAR0_EL1", lambda value: value | 0xF0),
    _value("a writable ID field that is not a number to be compared", "ID_AA64PFR0_EL1", lambda value: value | 0xF0000),
    _value("an ID field lowered that may not be", "ID_AA64PFR0_EL1", lambda value: value & ~0xF0000),
    _value("SVE in an ID register of a guest without SVE", "ID_AA64PFR0_EL1", lambda value: value | 1 << 32),
    _value("another algorithm of pointer authentication", "ID_AA64ISAR1_EL1", lambda value: value | 1 << 8),
    _value(
        "vCPUs that disagree about an ID register",
        "ID_AA64ISAR0_EL1",
        lambda value: value & ~0xF0,
        vcpus=(1,),
    ),
    _value("PSCI 1.9", "FW_PSCI_VERSION", lambda _: 0x10009),
    _value("a firmware service that nobody knows", "FW_STD_BMAP", lambda value: value | 1 << 40),
    _value("a workaround level too high", "FW_WORKAROUND_1", lambda _: 3),
    _added(
        "vendor services of a kernel that has none",
        {id_of("FW_VENDOR_HYP_BMAP_2"): 1},
        id_of("FW_VENDOR_HYP_BMAP_2"),
        ("6.1", "6.12"),
    ),
    _added(
        "an armed physical timer for a kernel that has none",
        {id_of("PTIMER_CTL"): 1, id_of("PTIMER_CVAL"): 1 << 40, id_of("PTIMER_CNT"): 1},
        id_of("PTIMER_CTL"),
        ("6.1",),
    ),
    _value("another MIDR", "MIDR_EL1", lambda value: value ^ 0x10),
    _value("another REVIDR", "REVIDR_EL1", lambda value: value ^ 1),
    _value("another AIDR", "AIDR_EL1", lambda value: value ^ 1),
    _value("a promise of CTR_EL0 that the host does not keep", "CTR_EL0", lambda value: value | 1 << 29),
    _value("more PMU counters than the host has", "PMCR_EL0", lambda value: value | 0x1F << 11, KEPT_BY_6_1),
    _value("33 bits in a register of 32", "DEMUX_CCSIDR[0]", lambda value: value | 1 << 32),
    _removed("no TIMER_CNT", "TIMER_CNT", "TIMER_CNT", PLAN),
    _removed("no PMCR_EL0 where an ID register promises a PMU", "PMCR_EL0", "ID_AA64DFR0_EL1", BOTH),
    _value("two vCPUs with one MPIDR", "MPIDR_EL1", lambda value: value & ~0xFF, PLAN, vcpus=(1,)),
    Tampering("a list out of order", ANY, _swap_neighbours, STREAM),
    Tampering("an id twice", ANY, _repeat, STREAM),
    _added("a list too long", {NO_SUCH + (n << 16): n for n in range(64)}, NO_SUCH),
)
