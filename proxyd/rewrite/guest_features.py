"""Two hosts as they are for one guest: its vCPU features decide which register lists of theirs meet.

A guest keeps its features when it moves, and QEMU is started with the same ones on both sides.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.vcpu_features import described_for, features_of

# Which option of QEMU's leaves a feature out (docs/system/arm/cpu-features.rst, hw/arm/virt.c).
WITHOUT: Final = {
    "pmu": ("-cpu host", "pmu=off"),
    "sve": ("-cpu host", "sve=off"),
    "pauth": ("-cpu host", "pauth=off"),
    "el2": ("-M virt", "virtualization=off"),
    "mte": ("-M virt", "mte=off"),
}

# By the names that host descriptions use. PSCI cannot be left out.
FEATURES: Final = ("psci", *WITHOUT)


class FeaturesError(ValueError):
    """The host has no vCPU with these features. The message says which it has."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """What a guest of the source finds at the destination.

    ``features`` are the guest's, ``source`` the host with the list for them. ``lacking``: features of the guest that
    the destination does not have; its QEMU then does not start the guest. ``surplus``: features of the destination that
    the guest lacks, and that its QEMU there has to be told to leave out.
    """

    features: tuple[str, ...]
    source: HostDescription
    destination: HostDescription
    lacking: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()


def host_features(host: HostDescription) -> tuple[str, ...]:
    """The features of the vCPU that is described: as the probe says, or as the list shows."""
    shown = features_of(host.registers)
    return host.features or tuple(feature for feature in FEATURES if feature == "psci" or feature in shown)


def guest_features(
    host: HostDescription, wanted: Collection[str] | None, without: Collection[str] = ()
) -> tuple[str, ...]:
    """The features of a guest on this host: those that are ``wanted``, or all that it has, less those in ``without``.

    PSCI is always one, as in QEMU.
    """
    chosen = host_features(host) if wanted is None else ("psci", *wanted)
    return tuple(dict.fromkeys(feature for feature in chosen if feature == "psci" or feature not in without))


def for_guest(host: HostDescription, features: Collection[str], knowledge: Knowledge) -> HostDescription:
    """The host with the list of a vCPU that has just these features, read or derived. Raises :class:`FeaturesError`."""
    here = host_features(host)
    if not set(features) <= set(here):
        raise FeaturesError(f"host {host.name}: features of {', '.join(here)} expected, found {', '.join(features)}")
    return described_for(host, features, knowledge)[0]


def meet(
    source: HostDescription,
    destination: HostDescription,
    knowledge: Knowledge,
    features: tuple[str, ...] | None = None,
) -> Meeting:
    """Put a guest of the source's, by default one with all its features, on the destination.

    Which of the destination's lists it finds there is for the plan, which tells the features from the registers.
    Raises :class:`FeaturesError` if the source does not have them.
    """
    chosen = host_features(source) if features is None else features
    there = host_features(destination)
    return Meeting(
        chosen,
        for_guest(source, chosen, knowledge),
        destination,
        tuple(feature for feature in chosen if feature not in there),
        tuple(feature for feature in there if feature not in chosen),
    )


def left_out(features: Collection[str]) -> str:
    """How QEMU is told to leave these out: ``-cpu host,pmu=off,sve=off -M virt,mte=off``."""
    options: dict[str, list[str]] = {}
    for feature in features:
        # A description may name features that nobody knows here.
        option, *settings = WITHOUT.get(feature, (f"without {feature}",))
        options.setdefault(option, []).extend(settings)
    return " ".join(",".join((option, *settings)) for option, settings in options.items())
