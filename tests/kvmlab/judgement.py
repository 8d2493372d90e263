"""Whether a cell was as proxyd said: what `proxyd plan` predicted against what the kernels then did, and the report
against what the guest found."""

from collections.abc import Iterator

from proxyd.rewrite.plan import Plan
from tests.kvmlab.hostdesc import host_description
from tests.kvmlab.prediction import plan_between
from tests.kvmlab.results import Noticed, Result, Results

STORED_AS = {
    "CNTP_CVAL_EL0": "PTIMER_CVAL",
    "CNTP_CTL_EL0": "PTIMER_CTL",
    "PMCNTENSET_EL0": "PMCNTENCLR_EL0",
    "PMINTENSET_EL1": "PMINTENCLR_EL1",
    "PMOVSSET_EL0": "PMOVSCLR_EL0",
    "CCSIDR_EL1": "DEMUX_CCSIDR",
}
"""Where the name that the guest reads a register by is not the one that it travels under, or not the only one."""


def plan_of(result: Result, results: Results) -> Plan:
    """Plan again, with today's rules, from what the two hosts said of themselves."""
    source, destination = (
        host_description(dict(results.hosts[f"{kernel} {result.cpu}"]), result.qemu)
        for kernel in (result.source, result.destination)
    )
    return plan_between(source, destination, result.vcpus, result.allow)


def unnamed(result: Result) -> tuple[Noticed, ...]:
    """What the guest found different after a load through proxyd, and proxyd's log does not name."""
    move = result.proxied
    if move.end != "loads":
        return ()
    named = {touched.register.partition(".")[0] for touched in move.touched} | set(move.told)
    named |= {name.partition("[")[0] for name in named}
    return tuple(each for each in move.noticed if not {each.register, STORED_AS.get(each.register)} & named)


def mismatches(result: Result, results: Results) -> Iterator[str]:
    """Say each way in which the cell was not as predicted, or not as it must be."""
    plan = plan_of(result, results)
    move = result.proxied
    expected = "refused" if plan.refusals else "loads"
    if move.end != expected:
        yield f"predicted {expected} through proxyd, and it {move.end}"
    planned = {(change.vcpu, change.action.value, change.target, change.verdict.value) for change in plan.changes}
    done = {(touched.vcpu, touched.action, touched.register, touched.verdict) for touched in move.touched}
    if move.end == "loads" == expected and planned != done:
        yield f"predicted changes {sorted(planned - done)} that were not made, made {sorted(done - planned)}"
    if move.end == "refused":
        wanted, found = {str(r) for r in plan.refusals}, set(move.refusals)
        if wanted != found:
            yield f"predicted refusals {sorted(wanted - found)} that were not, found {sorted(found - wanted)}"
    if move.end == "loads" and move.runs_on != "destination":
        yield "loaded through proxyd, and the guest does not count on"
    if move.end != "loads" and move.runs_on != "source":
        yield "not loaded through proxyd, and the guest does not count on at its source"
    for noticed in unnamed(result):
        yield f"proxyd does not name {noticed}"
