"""Whether a host description is still true of the host. No I/O.

A plan is only as good as the description it was made with. Between the probe and the migration a host may have got a
new kernel, another firmware or other boot options; a rehearsal service knows what a fresh vCPU has there right now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from formats.arm64.id_fields import is_id_register
from formats.arm64.register_id import RegisterKind, describe, id_of, kind_of
from proxyd.rewrite.host import HostDescription

# What a value of says something about the host, not about the moment or about a guest.
_OF_THE_HOST: Final = frozenset(id_of(name) for name in ("MIDR_EL1", "REVIDR_EL1", "AIDR_EL1", "CTR_EL0"))
_FIRMWARE: Final = frozenset({RegisterKind.FIRMWARE, RegisterKind.FIRMWARE_BITMAP})
_SHOWN: Final = 5


class StaleDescription(Exception):
    """The host is not what its description says. ``str()`` is one sentence with the registers."""


def check_freshness(
    described: HostDescription, kernel: str, features: tuple[str, ...], registers: Mapping[int, int]
) -> tuple[str, ...]:
    """Compare a description with what a vCPU with the same features has now; returns what is worth a warning.

    Raises :class:`StaleDescription` where lists or identities differ, because a plan depends on them.
    """
    differences = list(_differences(described.registers, registers))
    if differences:
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        known = "" if described.kernel is None else f" of Linux {described.kernel}"
        raise StaleDescription(
            f"the description of {described.name}{known} is not true of the destination, which has Linux {kernel} and "
            f"{', '.join(features)}: {'; '.join(differences[:_SHOWN])}{more} (describe it anew: proxyd probe)"
        )
    if described.kernel is not None and described.kernel != kernel:
        text = "its registers are the same, but a kernel may judge values otherwise (describe it anew: proxyd probe)"
        return (
            f"the description of {described.name} is of Linux {described.kernel}, and it has Linux {kernel}: {text}",
        )
    return ()


def _differences(described: Mapping[int, int], now: Mapping[int, int]) -> Iterator[str]:
    for register in sorted({*described, *now}):
        if register not in now:
            yield f"{describe(register)} is described and not there"
        elif register not in described:
            yield f"{describe(register)} is there and not described"
        elif described[register] != now[register] and _tells_of_the_host(register):
            yield f"{describe(register)} is described as {described[register]:#x} and is {now[register]:#x}"


def _tells_of_the_host(register: int) -> bool:
    return is_id_register(register) or register in _OF_THE_HOST or kind_of(register) in _FIRMWARE
