"""Which features a vCPU has, told from its registers, and a destination's description for a vCPU with just those.

A guest without a PMU meets a vCPU without one: QEMU makes the destination's vCPUs with the options of the source's, and
KVM then lists other registers, and other values of ID registers, than for the vCPU that was described. A probe has read
those lists too (``variants``); for a description without them they are derived from what is known of the features.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from typing import Final

import msgspec

from formats.arm64.cpreg_list import CpregList
from formats.arm64.id_fields import field_named
from formats.arm64.register_id import id_of
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge

# Features of a vCPU, by the register that KVM lists only with it. Not by ID registers' fields, which a stream might
# have wrong: then that is to be found out. The names are those of a host description's ``features``.
_SHOWN_BY: Final = {
    "pmu": id_of("PMCR_EL0"),
    "sve": id_of("ZCR_EL1"),
    "pauth": id_of("APIAKEYLO_EL1"),
    "el2": id_of("HCR_EL2"),
    "mte": id_of("RGSR_EL1"),
}
_ALWAYS: Final = "psci"  # QEMU has it always, and no list tells of it


def features_shown(registers: Container[int]) -> tuple[str, ...]:
    """The features of a vCPU with these registers, in the order of a description. Up to Linux 5.11 a PMU cannot be told
    from none."""
    return (_ALWAYS, *(feature for feature, register in _SHOWN_BY.items() if register in registers))


def features_of(registers: Container[int]) -> frozenset[str]:
    """The same without what every vCPU has: those that make a difference to the list."""
    return frozenset(features_shown(registers)) - {_ALWAYS}


def described_for(
    host: HostDescription, features: Collection[str], knowledge: Knowledge
) -> tuple[HostDescription, str | None]:
    """The host as a vCPU with ``features`` would find it, as far as it has them; and a remark, if that was derived."""
    if host.accelerator == "tcg":
        return host, None
    described = frozenset(host.features or features_of(host.registers)) - {_ALWAYS}
    wanted = described & frozenset(features)
    if wanted == described:
        return host, None
    read = host.with_features({_ALWAYS, *wanted})
    if read is not None:
        return read, None
    missing = sorted(described - wanted)
    remark = (
        f"the guest has no {' and no '.join(missing)}, and the destination is described with it: "
        "its registers without are derived, not read (proxyd probe reads them)"
    )
    return _without(host, missing, knowledge), remark


def _without(host: HostDescription, missing: Collection[str], knowledge: Knowledge) -> HostDescription:
    registers = {
        register: value
        for register, value in host.registers.items()
        if (entry := knowledge.entry(register)) is None
        or not any(listing.feature in missing for listing in entry.listing)
    }
    for feature in missing:
        for register, field_name in knowledge.fields_of_features.get(feature, ()):
            if register in registers:
                registers[register] = field_named(register, field_name).put(registers[register], 0)
    return msgspec.structs.replace(host, registers=CpregList(registers), features=None, variants=None)
