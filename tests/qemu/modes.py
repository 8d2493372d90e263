"""The ways in which QEMU migrates, as data: capabilities and parameters of both ends, and how each leg is connected.

A mode says what an operator would set; ``moving.py`` sets it. :data:`MODES` are those that every QEMU under test has
(7.2, 10.0 and 11.1, as Debian builds them): the matrix. :data:`STREAMS` are further ones that put something else on the
wire, each with the versions that know it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
    source_capabilities: tuple[str, ...] = ()
    """What only the source switches on."""
    versions: tuple[str, ...] = ("7.2", "10.0", "11.1")
    """The QEMUs that know it."""
    arguments: tuple[str, ...] = ()
    """What both QEMUs are started with, besides the usual. ``{directory}`` is a directory that they share."""
    source_arguments: tuple[str, ...] = ()
    """What only the source is started with."""

    @property
    def direct(self) -> Leg:
        """The leg of a migration without proxyd: it has what either leg has."""
        legs = (self.source_leg, self.destination_leg)
        return Leg(unix=any(leg.unix for leg in legs), tls=any(leg.tls for leg in legs))

    @property
    def postcopy(self) -> bool:
        """Whether the guest moves before its memory."""
        return "postcopy-ram" in self.capabilities

    @property
    def huge_pages(self) -> int:
        """Huge pages that both machines take together."""
        return 2 * 16 if self.arguments == HUGE else 0

    def extra(self, directory: Path, *, source: bool) -> list[str]:
        """Return the arguments for one of the QEMUs that share *directory*."""
        arguments = (*self.arguments, *(self.source_arguments if source else ()))
        return [argument.format(directory=directory) for argument in arguments]


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

UUID = ("-uuid", "a1b2c3d4-0000-1111-2222-333344445555")
SINCE_8_1 = ("10.0", "11.1")


def _ram(backend: str) -> tuple[str, ...]:
    return ("-object", f"{backend},id=ram,size=32M", "-machine", "memory-backend=ram")


HUGE = _ram("memory-backend-memfd,hugetlb=on,hugetlbsize=2M")
SHARED = _ram("memory-backend-file,share=on,mem-path={directory}/ram")
DISK = ("-blockdev", "driver=null-co,node-name=disk0,size=1073741824,read-zeroes=on")
MEMORY_DEVICE = (
    *("-m", "32M,maxmem=1G", "-object", "memory-backend-ram,id=vmem,size=64M"),
    *("-device", "virtio-mem-pci,id=vm0,memdev=vmem,requested-size=16M"),
)

STREAMS = [
    # RAM of pages that are not the target's.
    Mode("huge-pages", arguments=HUGE),
    # Zero pages on the main channel beside multifd, and not looked for at all.
    Mode(
        "zero-pages-legacy",
        ("multifd",),
        _multifd(2) | {"zero-page-detection": "legacy"},
        versions=SINCE_8_1,
        channels=3,
    ),
    Mode(
        "zero-pages-none", ("multifd",), _multifd(2) | {"zero-page-detection": "none"}, versions=SINCE_8_1, channels=3
    ),
    Mode("multifd-zlib", ("multifd",), _multifd(2, "zlib"), channels=3),
    Mode("zero-copy", ("multifd",), _multifd(2), source_capabilities=("zero-copy-send",), channels=3),
    # Since 8.0 types its section comes before RAM: NOT_YET.
    Mode("virtio-mem", arguments=MEMORY_DEVICE, versions=("7.2",)),
    Mode("auto-converge", source_capabilities=("auto-converge",)),
    Mode("pause-before-switchover", source_capabilities=("pause-before-switchover",)),
    Mode("switchover-ack", ("switchover-ack",), versions=SINCE_8_1),
    # A subsection of the configuration section.
    Mode("validate-uuid", ("validate-uuid",), arguments=UUID),
    # The uuid that multifd channels begin with.
    Mode("multifd-uuid", ("multifd",), _multifd(2), arguments=UUID, channels=3),
    # Pages as only sources before 9.1 encode them.
    Mode("compress", ("compress",), versions=("7.2",)),
]

NOT_YET = [
    # The list of blocks has another field, which is not announced.
    Mode("huge-pages-postcopy", ("postcopy-ram",), arguments=HUGE, versions=("11.1",)),
    # The list of blocks has yet another field, and no page of the guest's RAM is sent.
    Mode("ignore-shared", ("x-ignore-shared",), arguments=SHARED),
    # A section that is not RAM's and that comes in parts.
    Mode("dirty-bitmaps", ("dirty-bitmaps",), arguments=DISK),
    # A device whose section comes before RAM.
    Mode("virtio-mem", arguments=MEMORY_DEVICE, versions=SINCE_8_1),
]
"""What a later version carries, and this one refuses by name (``test_unsupported.py``)."""
