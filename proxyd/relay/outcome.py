"""How a connection can end: a closed set, because it is a metric label, and a sentence, because people read logs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What became of one connection. ``docs/operations.md`` says what the guest experiences in each case."""

    COMPLETED = "completed"  # the destination said SHUT(0): the guest runs there
    DELIVERED = "delivered"  # everything was delivered, and without a return path nobody says how it went
    REFUSED = "refused"  # the rules forbid the rewrite
    BAD_STREAM = "bad_stream"  # not what QEMU writes
    UNSUPPORTED = "unsupported"  # a kind of stream or channel that this version does not carry
    LIMIT = "limit"  # a limit of the configuration
    NOT_MIGRATION = "not_migration"  # a port probe, or some other protocol
    SOURCE_NOT_ALLOWED = "source_not_allowed"  # not in source_networks
    TLS_FAILED = "tls_failed"  # no handshake on a leg that is TLS, or with somebody who may not migrate
    TOO_MANY_CONNECTIONS = "too_many_connections"  # limits.connections
    SOURCE_GONE = "source_gone"  # the source closed or died before the commit point
    DESTINATION_UNREACHABLE = "destination_unreachable"  # nobody accepted the connection
    DESTINATION_GONE = "destination_gone"  # it closed or died before the commit point, saying nothing
    DESTINATION_FAILED = "destination_failed"  # it said SHUT(1), or ended after the commit point without a SHUT
    POSTCOPY_BROKEN = "postcopy_broken"  # a connection broke while pages were missing: both ends pause, and can recover
    NOT_REHEARSED = "not_rehearsed"  # the route asks for a rehearsal, and the service could not give one
    DRAINED = "drained"  # a drain ran out of patience before the commit point
    ABORTED = "aborted"  # an operator ended it before the commit point
    INTERNAL_ERROR = "internal_error"  # a bug of ours


@dataclass(frozen=True, slots=True)
class Ending:
    """An outcome and the one sentence that explains it."""

    outcome: Outcome
    reason: str
