"""The ways in which QEMU migrates, as data: capabilities and parameters of both ends, and how each leg is connected.

A mode says what an operator would set; ``moving.py`` sets it. Every QEMU under test (7.2, 10.0, 11.1, as Debian builds
them) has all of these capabilities and compressions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Parameters = Mapping[str, int | str]


@dataclass(frozen=True, slots=True)
class Leg:
    """One connection of a migration's path, and all that follow it (multifd, preempt)."""

    unix: bool = False
    tls: bool = False


TCP = Leg()
TLS = Leg(tls=True)
UNIX = Leg(unix=True)


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to migrate. Through proxyd there are two legs; directly there is one, :attr:`direct`."""

    name: str
    capabilities: tuple[str, ...] = ()
    """What both ends switch on, besides events and (the source) the return path."""
    parameters: Parameters = field(default_factory=dict)
    """What both ends set."""
    source_leg: Leg = TCP
    """From the source to proxyd."""
    destination_leg: Leg = TCP
    """From proxyd to the destination."""
    channels: int = 1
    """Connections that one migration makes."""

    @property
    def direct(self) -> Leg:
        """The leg of a migration without proxyd: it has what either leg has."""
        legs = (self.source_leg, self.destination_leg)
        return Leg(unix=any(leg.unix for leg in legs), tls=any(leg.tls for leg in legs))

    @property
    def postcopy(self) -> bool:
        """Whether the guest moves before its memory."""
        return "postcopy-ram" in self.capabilities


def _multifd(number: int, compression: str = "none") -> dict[str, int | str]:
    return {"multifd-channels": number, "multifd-compression": compression}


PREEMPT = ("postcopy-ram", "postcopy-preempt")

MODES = [
    Mode("precopy"),
    Mode("multifd-2", ("multifd",), _multifd(2), channels=3),
    Mode("multifd-8", ("multifd",), _multifd(8), channels=9),
    Mode("multifd-zstd", ("multifd",), _multifd(2, "zstd"), channels=3),
    Mode("postcopy", ("postcopy-ram",)),
    Mode("postcopy-preempt", PREEMPT, channels=2),
    Mode("xbzrle", ("xbzrle",)),
    Mode("tls-source", source_leg=TLS),
    Mode("tls-destination", destination_leg=TLS),
    Mode("tls-both", source_leg=TLS, destination_leg=TLS),
    Mode("unix", source_leg=UNIX, destination_leg=UNIX),
    # Combinations of the above that have their own way to go wrong: several handshakes at a time; a destination that
    # cannot look at a channel's first bytes; channels that have no address to be told apart by.
    Mode("multifd-tls", ("multifd",), _multifd(2), source_leg=TLS, destination_leg=TLS, channels=3),
    Mode("multifd-unix", ("multifd",), _multifd(2), source_leg=UNIX, destination_leg=UNIX, channels=3),
    Mode("postcopy-tls", ("postcopy-ram",), source_leg=TLS, destination_leg=TLS),
    Mode("postcopy-preempt-tls", PREEMPT, source_leg=TLS, destination_leg=TLS, channels=2),
]
