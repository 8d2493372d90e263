"""What a route asks of the rewriter, and what a stream may ask of us."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from formats.configuration import MAX_NAME_BYTES
from formats.device_tail import MAX_DEVICE_STATE_BYTES, MAX_SECTIONS
from formats.schemas.arm_cpu import MAX_CPREGS
from proxyd.rewrite.firewall import NO_FIREWALL, FirewallPolicy

if TYPE_CHECKING:
    from proxyd.rewrite.knowledge import Knowledge
    from proxyd.rewrite.plan import Destination


class ReturnPathPolicy(StrEnum):
    """Whether a stream without a return path may be rewritten.

    Without one the source calls a migration complete as soon as its bytes are in a socket buffer: if the destination
    then fails to load, the guest runs nowhere. Refusing is the default; a file has no return path and needs none.
    """

    REQUIRE = "require"
    OPTIONAL = "optional"


class PostcopyPolicy(StrEnum):
    """Which sources may switch to postcopy while their stream is rewritten.

    In postcopy the source hands its guest over before it knows whether the destination loads. QEMU 10.2 and later wait
    for the answer to a ping (``migration/savevm.c: QEMU_VM_PING_PACKAGED_LOADED``) and resume the guest if it does not;
    with an older source a load that fails loses the guest, and so would a refusal.
    """

    PROVEN = "proven"  # those whose machine type is of QEMU 10.2 or later
    SOURCES_10_2 = "sources-10.2"  # the operator vouches that all of them are
    MAY_LOSE_GUEST = "may-lose-guest"  # any


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds on one stream.

    ``device_state_bytes`` are held in memory until the vmdesc is there; ``sections`` bounds iterable and device
    sections each; ``cpregs`` the length of one vCPU's register list; ``name_bytes`` machine type and section names.
    """

    device_state_bytes: int = MAX_DEVICE_STATE_BYTES
    sections: int = MAX_SECTIONS
    cpregs: int = MAX_CPREGS
    name_bytes: int = MAX_NAME_BYTES


@dataclass(frozen=True, slots=True)
class RewritePolicy:
    """Where streams go and what may be changed on the way. Without a ``destination`` nothing is rewritten.

    ``firewall``: what may come at all.
    ``record``: the rewriter keeps what it saw of the device state, before and after.
    ``rehearse``: device state that was planned for waits for :meth:`~proxyd.rewrite.rewriter.StreamRewriter.release`.
    """

    destination: Destination | None
    knowledge: Knowledge
    allow: frozenset[int] = field(default=frozenset())
    return_path: ReturnPathPolicy = ReturnPathPolicy.REQUIRE
    rehearse: bool = False
    postcopy: PostcopyPolicy = PostcopyPolicy.PROVEN
    record: bool = False
    firewall: FirewallPolicy = NO_FIREWALL
