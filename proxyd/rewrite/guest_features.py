"""Two hosts as they are for one guest: its vCPU features decide which register lists of theirs meet.

A guest keeps its features when it moves, and QEMU is started with the same ones on both sides. So the destination's
list is that for the *guest's* features, where the description has it, not that of everything the host could have.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from proxyd.rewrite.host import HostDescription

# Which option of QEMU's leaves a feature out (docs/system/arm/cpu-features.rst, hw/arm/virt.c).
WITHOUT: Final = {
    "pmu": "-cpu host,pmu=off",
    "sve": "-cpu host,sve=off",
    "pauth": "-cpu host,pauth=off",
    "el2": "-M virt,virtualization=off",
    "mte": "-M virt,mte=off",
}

# By the names that host descriptions use. PSCI cannot be left out.
FEATURES: Final = ("psci", *WITHOUT)


class FeaturesError(ValueError):
    """A description has no register list for these features. The message says which lists it has."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """What a guest of the source finds at the destination.

    ``features`` are the guest's, None where the source's description does not tell. ``source`` and ``destination`` are
    the descriptions with the lists for them. ``lacking``: features of the guest that the destination does not have; its
    QEMU then does not start the guest, and ``destination`` is None. ``surplus``: features of the destination that the
    guest lacks, and that its QEMU there has to be told to leave out.
    """

    features: tuple[str, ...] | None
    source: HostDescription
    destination: HostDescription | None
    lacking: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()


def for_guest(host: HostDescription, features: Collection[str]) -> HostDescription:
    """The description with the list of a vCPU that has just these features. Raises :class:`FeaturesError`."""
    found = host.with_features(features)
    if found is not None:
        return found
    if host.features is None:
        known = "it does not say which features its list is for (a live 'proxyd probe' does)"
    else:
        lists = [host.features, *(variant.features for variant in host.variants or ())]
        known = f"found lists for {'; '.join(','.join(one) for one in lists)}"
    raise FeaturesError(f"host {host.name}: a register list for the features {','.join(features)} expected, {known}")


def guest_features(
    host: HostDescription, wanted: Collection[str] | None, without: Collection[str] = ()
) -> tuple[str, ...] | None:
    """The features of a guest on this host: those that are ``wanted``, or all that it has, less those in ``without``.

    None where the description does not tell and nobody asks. PSCI is always one, as in QEMU.
    """
    if wanted is None and host.features is None and not without:
        return None
    chosen = ("psci", *wanted) if wanted is not None else host.features or ("psci",)
    return tuple(dict.fromkeys(feature for feature in chosen if feature == "psci" or feature not in without))


def meet(source: HostDescription, destination: HostDescription, features: tuple[str, ...] | None = None) -> Meeting:
    """Put a guest of the source's, by default one with all its features, on the destination.

    Raises :class:`FeaturesError` if the source has no list for them.
    """
    chosen = source.features if features is None else features
    if chosen is None:
        return Meeting(None, source, destination)
    described = for_guest(source, chosen)
    if destination.features is None:
        return Meeting(chosen, described, destination)
    lacking = tuple(feature for feature in chosen if feature not in destination.features)
    surplus = tuple(feature for feature in destination.features if feature not in chosen)
    there = None if lacking else for_guest(destination, chosen)
    return Meeting(chosen, described, there, lacking, surplus)


def left_out(features: Collection[str]) -> str:
    """How QEMU is told to leave these out."""
    return ", ".join(WITHOUT.get(feature, f"without {feature}") for feature in features)
