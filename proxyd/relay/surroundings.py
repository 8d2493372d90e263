"""What all sessions of a daemon share, and where tests put in parts of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxyd.config import LimitsConfig
from proxyd.journal import Journal
from proxyd.metrics import Metrics
from proxyd.relay.channel import dial
from proxyd.relay.dialling import Dialler, Securer
from proxyd.relay.held_memory import HeldMemory
from proxyd.relay.intake import RewriterFactory, rewriter_for
from proxyd.relay.keeping import DescriptorStore
from proxyd.relay.migration import Migrations
from proxyd.relay.record import Witness
from proxyd.relay.rehearser import RehearserFactory, ServiceRehearser
from proxyd.relay.tls_leg import connect_tls
from proxyd.routes import Route

# Of a route, a migration's id and its source.
WitnessFactory = Callable[[Route, str, str], Witness]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all sessions of a daemon share. Tests put a scripted rewriter and legs in memory here."""

    metrics: Metrics
    journal: Journal
    make_rewriter: RewriterFactory = rewriter_for
    dialler: Dialler = dial
    make_rehearser: RehearserFactory = ServiceRehearser
    secure: Securer = connect_tls
    migrations: Migrations = field(default_factory=Migrations)
    store: DescriptorStore | None = None
    held: HeldMemory = field(default_factory=lambda: HeldMemory(LimitsConfig().held_bytes))
    witness: WitnessFactory | None = None
