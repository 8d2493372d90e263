"""One pair of hosts: a guest moves directly, and through proxyd. What the test and the matrix both do."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from tests.kvmlab.catalogue import LabError
from tests.kvmlab.checker import Checker, Difference
from tests.kvmlab.feed import time_limit
from tests.kvmlab.guest import Guest, GuestSpec, start_guest
from tests.kvmlab.host import Host, HostSpec
from tests.kvmlab.hostdesc import host_description, read_register_list
from tests.kvmlab.lab import Lab
from tests.kvmlab.linux_guest import Change
from tests.kvmlab.migration import Arrival, Outcome, migrate
from tests.kvmlab.proxy import Proxy, proxyd

LOG_SECONDS = 20
"""How long proxyd may take to say what became of a migration that has ended at both sides."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One migration and what the guest says afterwards, where it runs (None: nowhere).

    The counts are each vCPU's timer interrupts: the last that the source showed before the migration ended, the
    first that showed afterwards, which may be *resume_ticks* further, and the last that was waited for. *abilities*:
    what the Linux guest said that it can do, each with None or why it cannot.
    """

    outcome: Outcome
    runs_on: str | None
    counts_before: tuple[int, ...]
    counts_resumed: tuple[int, ...]
    counts_after: tuple[int, ...]
    clean: bool
    changed: tuple[Difference | Change, ...]
    identity: tuple[Difference | Change, ...]
    resume_ticks: int = Checker.resume_ticks
    abilities: dict[str, str | None] = field(default_factory=dict)
    proxy_log: tuple[dict[str, Any], ...] = ()

    @property
    def continues(self) -> bool:
        """Whether every vCPU counted on from where it was, neither back nor far ahead, and keeps counting."""
        counts = zip(self.counts_before, self.counts_resumed, self.counts_after, strict=True)
        return self.runs_on is not None and all(
            before <= resumed <= before + self.resume_ticks and resumed < after for before, resumed, after in counts
        )

    def to_json(self) -> dict[str, Any]:
        """Return the attempt for a results file; registers as text."""
        return {
            **asdict(self),
            "outcome": self.outcome.to_json(),
            "changed": [str(difference) for difference in self.changed],
            "identity": [str(difference) for difference in self.identity],
        }


async def boot_pair(lab: Lab, source: HostSpec, destination: HostSpec) -> tuple[Host, Host]:
    """Boot two hosts at the same time."""
    hosts: list[Host | None] = [None, None]

    async def boot(place: int, spec: HostSpec) -> None:
        hosts[place] = await lab.boot(spec)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(boot, 0, source)
        nursery.start_soon(boot, 1, destination)
    first, second = hosts
    if first is None or second is None:
        raise AssertionError("the nursery ends when both are up")
    return first, second


async def attempt_directly(lab: Lab, hosts: tuple[Host, Host], spec: GuestSpec) -> Attempt:
    """Migrate a new guest from the first host to the second with nothing between; raises LabError."""
    source, destination = await _start(hosts, spec)
    attempt = await _attempt(lab, source, destination, hosts[1].incoming_port)
    await _stop(source, destination)
    return attempt


async def attempt_through_proxyd(
    lab: Lab, hosts: tuple[Host, Host], spec: GuestSpec, directory: Path, allow: tuple[str, ...] = ()
) -> Attempt:
    """Migrate a new guest through `proxyd serve`, which knows the second host by its register list; raises LabError."""
    description = host_description(await read_register_list(hosts[1]), spec.qemu)
    async with proxyd(directory, hosts[1].incoming_port, description, allow) as proxy:
        return await attempt_through(lab, hosts, spec, proxy)


async def attempt_through(lab: Lab, hosts: tuple[Host, Host], spec: GuestSpec, proxy: Proxy) -> Attempt:
    """Migrate a new guest through *proxy*, which leads to the second host; raises LabError.

    The attempt has what the proxy has logged about it.
    """
    source, destination = await _start(hosts, spec)
    mark = len(proxy.lines.items)
    attempt = await _attempt(lab, source, destination, proxy.port)
    with time_limit(LOG_SECONDS, "proxyd: the line that tells how the migration ended"):
        await proxy.lines.first(lambda line: '"outcome"' in line, mark)
    await _stop(source, destination)
    return replace(attempt, proxy_log=tuple(proxy.log(mark)))


async def _start(hosts: tuple[Host, Host], spec: GuestSpec) -> tuple[Guest, Guest]:
    guests: dict[bool, Guest] = {}

    async def start(host: Host, incoming: bool) -> None:
        guests[incoming] = await start_guest(host, spec, incoming=incoming)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start, hosts[0], False)
        nursery.start_soon(start, hosts[1], True)
    return guests[False], guests[True]


async def _attempt(lab: Lab, source: Guest, destination: Guest, port: int) -> Attempt:
    before = await source.checker.some_more()
    if not before.clean:
        raise LabError(f"{source.name}: not clean before the migration: {source.checker.changed()}")
    outcome = await migrate(source, destination, port)
    runs = [
        g for g, runs in ((source, outcome.source_running), (destination, outcome.arrival is Arrival.RUNNING)) if runs
    ]
    errors = [line for line in outcome.complaints if "warning:" not in line]
    lab.progress(
        f"{source.host.spec.kernel} -> {destination.host.spec.kernel}: source {outcome.source_status}, destination "
        f"{outcome.arrival} after {outcome.seconds:.1f} s{''.join(f'; {line}' for line in errors)}"
    )
    if len(runs) > 1:
        raise LabError(f"{source.name}: the guest runs on both hosts")
    if not runs:
        none = before.counts
        return Attempt(outcome, None, none, none, none, clean=False, changed=(), identity=())
    checker = runs[0].checker
    last = source.checker.ticks()[-1].counts
    resumed = await checker.beyond(last)
    tick = await checker.beyond(tuple(count + 5 for count in resumed.counts))
    lab.progress(f"guest on {runs[0].host.release} counts {tick.counts}, {'clean' if tick.clean else 'not clean'}")
    return Attempt(
        outcome,
        runs_on="source" if runs[0] is source else "destination",
        counts_before=last,
        counts_resumed=resumed.counts,
        counts_after=tick.counts,
        clean=tick.clean,
        changed=tuple(checker.changed()),
        identity=tuple(checker.identity()),
        resume_ticks=checker.resume_ticks,
        abilities=source.checker.abilities(),
    )


async def _stop(*guests: Guest) -> None:
    async with trio.open_nursery() as nursery:
        for guest in guests:
            nursery.start_soon(guest.stop)
