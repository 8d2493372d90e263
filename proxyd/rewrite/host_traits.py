"""What two hosts' other traits mean for guests: those that no register list has.

Counter frequency, CPUs, SVE vector lengths, interrupt controllers, vCPU features and KVM capabilities, as a probe found
them. No stream carries them, so neither QEMU nor the plan can compare them at the time of a migration: here they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from formats.arm64.register_id import id_of
from proxyd.rewrite.guest_features import host_features, left_out
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.verdict import Verdict

MIDR: Final = id_of("MIDR_EL1")

# A measured frequency is good to one part in a thousand at worst (docs/host-description.md).
SAME_FREQUENCY: Final = 0.001

_GIC: Final = {
    "v2": "guests with a GICv2 (-M virt,gic-version=2)",
    "v3": "guests with a GICv3 (-M virt,gic-version=3)",
    "its": "guests with an ITS (-M virt,its=on)",
    "v5": "guests with a GICv5 (-M virt,gic-version=5)",
}

# Capabilities that are there or not, and which guests need them.
_NEEDED_BY: Final = {
    "STEAL_TIME": "guests that are given stolen time (-cpu host,kvm-steal-time=on)",
    "PTP_KVM": "guests that set their clocks by the host's (ptp_kvm)",
}

# Capabilities that a host's features or its lists already tell of.
_TOLD_ELSEWHERE: Final = frozenset(
    {"ARM_PSCI_0_2", "ARM_PMU_V3", "ARM_SVE", "ARM_PTRAUTH_ADDRESS", "ARM_PTRAUTH_GENERIC", "ARM_MTE", "ARM_EL2"}
)


class Way(StrEnum):
    """Whose guests a statement is about."""

    A_TO_B = "a-to-b"
    B_TO_A = "b-to-a"
    BOTH = "both"


class Severity(StrEnum):
    """What a statement asks of the operator, from nothing to despair."""

    FINE = "fine"
    """Nothing to do."""

    REWRITTEN = "rewritten"
    """Guests load because proxyd changes the stream."""

    CARE = "care"
    """Neither QEMU nor proxyd looks after it: the operator has to."""

    REFUSED = "refused"
    """Such a guest does not load, and goes on on its source."""

    BREAKS = "breaks"
    """The guest loads and goes wrong, and nothing in the stream can mend it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence. ``subject`` is what it is about: ``registers``, or a key of the host description.

    ``verdict`` is there where a rewrite is spoken of, ``registers`` where registers are named.
    """

    way: Way
    severity: Severity
    subject: str
    text: str
    registers: tuple[int, ...] = ()
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Crossing:
    """One way between the two, and what the hosts are called in sentences."""

    way: Way
    source: HostDescription
    destination: HostDescription
    here: str
    there: str


def traits(a: HostDescription, b: HostDescription) -> Iterator[Statement]:
    """Everything that differs, way by way, and at the end what nobody knows."""
    for crossing in (Crossing(Way.A_TO_B, a, b, "A", "B"), Crossing(Way.B_TO_A, b, a, "B", "A")):
        yield from traits_on_the_way(crossing)
    yield from _other_capabilities(a, b)
    yield from _not_known(a, b)


def traits_on_the_way(crossing: Crossing) -> Iterator[Statement]:
    """What differs for guests that go one way."""
    for look in (_features, _frequency, _cpus, _vector_lengths, _controllers, _capabilities):
        yield from look(crossing)


def _features(crossing: Crossing) -> Iterator[Statement]:
    here, there = host_features(crossing.source), host_features(crossing.destination)
    why = crossing.destination.missing_features or {}
    for feature in here:
        if feature not in there:
            because = why.get(feature, "its description was made without; 'proxyd probe --features' asks for more")
            text = (
                f"guests with {feature} cannot be started on {crossing.there}: {because}. "
                f"Those that are to move must be started without it on {crossing.here} ({left_out([feature])})"
            )
            yield Statement(crossing.way, Severity.REFUSED, "features", text)
    surplus = [feature for feature in there if feature not in here]
    if surplus:
        text = (
            f"{crossing.there} has {' and '.join(surplus)}, which guests from {crossing.here} do not have: "
            f"QEMU there must be started with {left_out(surplus)}"
        )
        yield Statement(crossing.way, Severity.CARE, "features", text)


def _frequency(crossing: Crossing) -> Iterator[Statement]:
    here, there = crossing.source.counter_hz, crossing.destination.counter_hz
    if here is None or there is None or here == there:
        return
    if abs(there - here) / here <= SAME_FREQUENCY:
        if crossing.way is Way.A_TO_B:
            text = (
                f"the counters were measured at {here} and {there} Hz, which may be one frequency: "
                "the kernel's log has the exact one (arch_timer: cp15 timer(s) running at)"
            )
            yield Statement(Way.BOTH, Severity.CARE, "counter_hz", text)
        return
    text = (
        f"guest time runs {there / here:.4g} times as fast on {crossing.there}: the counter has {here} Hz on "
        f"{crossing.here} and {there} Hz on {crossing.there}, and a guest keeps the frequency (CNTFRQ_EL0) that it "
        "found at boot. The stream does not have it: nothing can mend that"
    )
    yield Statement(crossing.way, Severity.BREAKS, "counter_hz", text)


def _cpus(crossing: Crossing) -> Iterator[Statement]:
    here, there = crossing.source.midrs or (), crossing.destination.midrs or ()
    strange = [midr for midr in here if midr not in there]
    if there and strange:
        text = (
            f"guests on CPUs with MIDR_EL1 {_hex(strange)} are refused: {crossing.there} has {_hex(there)}, and a "
            "guest chose its errata workarounds by the MIDR_EL1 that it found at boot"
        )
        yield Statement(crossing.way, Severity.REFUSED, "midrs", text, (MIDR,))
    if len(here) > 1:
        text = (
            f"{crossing.here} has {len(here)} kinds of CPU ({_hex(here)}): what a guest is told depends on where its "
            "QEMU is pinned, and what is said here holds for the CPU on which the probe ran"
        )
        yield Statement(crossing.way, Severity.CARE, "midrs", text, (MIDR,))


def _vector_lengths(crossing: Crossing) -> Iterator[Statement]:
    here, there = crossing.source.sve_vector_bits, crossing.destination.sve_vector_bits
    if not here or not there or here == there:
        return
    common = _common_lengths(here, there)
    differ = (
        f"SVE vectors have {_bits(here)} bits on {crossing.here} and {_bits(there)} on {crossing.there}, and no stream "
        "says which a guest was given: neither QEMU nor proxyd can check it"
    )
    if not common:
        text = f"{differ}. No set of lengths fits both: only guests without SVE ({left_out(['sve'])}) can move"
        yield Statement(crossing.way, Severity.BREAKS, "sve_vector_bits", text)
        return
    lengths = sorted({*here, *there})
    options = ",".join(f"sve{bits}={'on' if bits in common else 'off'}" for bits in lengths)
    text = f"{differ}. Start guests that are to move with the same lengths on both: -cpu host,{options}"
    yield Statement(crossing.way, Severity.CARE, "sve_vector_bits", text)


def _common_lengths(here: tuple[int, ...], there: tuple[int, ...]) -> tuple[int, ...]:
    """The longest beginning of both: KVM lets a guest have all of the host's lengths up to a longest one, and no other
    set (arch/arm64/kvm/guest.c: set_sve_vls)."""
    common = []
    for mine, theirs in zip(sorted(here), sorted(there), strict=False):
        if mine != theirs:
            break
        common.append(mine)
    return tuple(common)


def _controllers(crossing: Crossing) -> Iterator[Statement]:
    here, there = crossing.source.gic, crossing.destination.gic
    if here is None or there is None:
        return
    for kind in here:
        if kind not in there:
            who = _GIC.get(kind, f"guests with interrupt controller {kind}")
            offered = f"it offers {', '.join(there)}" if there else "it offers no interrupt controller"
            text = f"{who} cannot be started on {crossing.there}: {offered}"
            yield Statement(crossing.way, Severity.REFUSED, "gic", text)


def _capabilities(crossing: Crossing) -> Iterator[Statement]:
    here, there = crossing.source.capabilities or {}, crossing.destination.capabilities or {}
    for name, who in _limited(here, there):
        text = f"{who} cannot be started on {crossing.there} ({name} {there[name]}, {here[name]} on {crossing.here})"
        yield Statement(crossing.way, Severity.CARE, "capabilities", text)
    for name, who in _NEEDED_BY.items():
        if here.get(name) and there.get(name) == 0:
            text = f"{who} have that on {crossing.here} and not on {crossing.there} ({name})"
            yield Statement(crossing.way, Severity.CARE, "capabilities", text)


def _limited(here: Mapping[str, int], there: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Limits that are lower at the destination, with the guests that are above them."""
    size, count = "ARM_VM_IPA_SIZE", "MAX_VCPUS"
    if size in there and here.get(size, 0) > there[size]:
        yield size, f"guests with memory or devices above 2^{there[size]}"
    if count in there and here.get(count, 0) > there[count]:
        yield count, f"guests with more than {there[count]} vCPUs"


def _other_capabilities(a: HostDescription, b: HostDescription) -> Iterator[Statement]:
    here, there = a.capabilities or {}, b.capabilities or {}
    told = {"ARM_VM_IPA_SIZE", "MAX_VCPUS", *_NEEDED_BY, *_TOLD_ELSEWHERE}
    differ = [name for name in here if name in there and here[name] != there[name] and name not in told]
    if differ:
        values = ", ".join(f"{name} ({here[name]} and {there[name]})" for name in differ)
        text = f"KVM capabilities differ on which no migration by QEMU is known to depend: {values}"
        yield Statement(Way.BOTH, Severity.FINE, "capabilities", text)


def _not_known(a: HostDescription, b: HostDescription) -> Iterator[Statement]:
    what = {
        "counter_hz": "the counter's frequency",
        "midrs": "the kinds of CPU",
        "gic": "the interrupt controllers",
    }
    missing = [text for key, text in what.items() if getattr(a, key) is None or getattr(b, key) is None]
    if missing:
        whose = [name for name, host in (("A", a), ("B", b)) if any(getattr(host, key) is None for key in what)]
        text = (
            f"not compared, because the description of {' and '.join(whose)} does not tell: {', '.join(missing)}. "
            "'proxyd probe' on the live host does"
        )
        yield Statement(Way.BOTH, Severity.CARE, "origin", text)


def _hex(numbers: tuple[int, ...] | list[int]) -> str:
    return ", ".join(f"{number:#x}" for number in numbers)


def _bits(lengths: tuple[int, ...]) -> str:
    return ", ".join(map(str, sorted(lengths)))
