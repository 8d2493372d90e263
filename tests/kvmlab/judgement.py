"""Whether a cell was as proxyd says: what `proxyd plan` predicts against what the kernels did, and the report against
what the guest found.

Predictions are made again, with today's rules, from what was written down before anything moved; so a change of the
rules is judged by what was measured before it. Where it changes what proxyd does, the cell is to be measured again.
"""

import re
from collections.abc import Iterable, Iterator

from formats.arm64.id_fields import field_named
from formats.arm64.register_id import id_of, name_of
from proxyd.rewrite.plan import Plan
from proxyd.rewrite.unaided import Foreseen, Unaided
from tests.kvmlab.hostdesc import host_description
from tests.kvmlab.prediction import plan_between, plan_for
from tests.kvmlab.results import Noticed, Refusal, Result, Results, refusal_of

STORED_AS = {
    "CNTP_CVAL_EL0": "PTIMER_CVAL",
    "CNTP_CTL_EL0": "PTIMER_CTL",
    "PMCNTENSET_EL0": "PMCNTENCLR_EL0",
    "PMINTENSET_EL1": "PMINTENCLR_EL1",
    "PMOVSSET_EL0": "PMOVSCLR_EL0",
    "CCSIDR_EL1": "DEMUX_CCSIDR",
}
"""Where the name that the guest reads a register by is not the one that it travels under, or not the only one."""


OUTSIDE_THE_LIST = frozenset({"FPCR"})
"""What travels elsewhere in the stream: named by a notice that says so in its text, whatever register it stands at."""


def plan_of(result: Result, results: Results) -> Plan:
    """Plan for this very guest, from what its stream carries on its source's host and the destination's description."""
    stream = results.streams[f"{result.source} {result.cpu} {result.guest}"]
    return plan_for(stream["vcpus"], _description(results, result.destination, result), result.allow)


def plan_from_hosts(result: Result, results: Results) -> Plan:
    """Plan from what the two hosts said of themselves alone: for a guest that has written nothing yet."""
    source, destination = (_description(results, kernel, result) for kernel in (result.source, result.destination))
    return plan_between(source, destination, result.vcpus, result.allow)


def _description(results: Results, kernel: str, result: Result) -> bytes:
    return host_description(dict(results.hosts[f"{kernel} {result.cpu}"]), result.qemu)


def depends_on_the_guest(result: Result, results: Results) -> tuple[str, ...]:
    """Registers by which the plan for this guest is refused and the plan from the hosts alone is not."""
    plans = (plan_of(result, results), plan_from_hosts(result, results))
    ours, fresh = ({refusal_of(str(refusal)).register for refusal in plan.refusals} for plan in plans)
    return tuple(sorted(ours - fresh))


def unnamed(result: Result, plan: Plan) -> tuple[Noticed, ...]:
    """What the guest found different after a load through proxyd, and neither proxyd's log names nor *plan*.

    A change of a field names that field alone.
    """
    move = result.proxied
    if move.end != "loads":
        return ()
    named = {touched.register for touched in move.touched} | set(move.told)
    named |= {change.target for change in plan.changes}
    named |= {name_of(notice.register) for notice in plan.notices if notice.register is not None}
    named |= {name for notice in plan.notices for name in OUTSIDE_THE_LIST & set(re.findall(r"\w+", notice.text))}
    whole = {re.sub(r"\[\d+\]$", "", name) for name in named if "." not in name}
    return tuple(
        each
        for each in move.noticed
        if not {each.register, STORED_AS.get(each.register)} & whole and _left(each, named)
    )


def _left(noticed: Noticed, named: set[str]) -> int:
    """The bits that differ, without those of fields that are named."""
    left = int(noticed.was, 16) ^ int(noticed.now, 16)
    for name in named:
        register, dot, field = name.partition(".")
        if dot and register == noticed.register:
            left &= ~_mask(register, field)
    return left


def _mask(register: str, field: str) -> int:
    """Of a field by its name, or by its bits: ``[63:60]``, where it has none."""
    bits = re.fullmatch(r"\[(\d+):(\d+)\]", field)
    if bits is None:
        return field_named(id_of(register), field).mask
    return (2 << int(bits[1])) - (1 << int(bits[2]))


def silently_wrong(result: Result, unaided: Unaided) -> Iterator[str]:
    """Say where the migration with nothing between was not as foreseen."""
    move = result.direct
    foreseen = unaided.foreseen
    expected = "fails" if foreseen is Foreseen.FAILS else "loads"
    if foreseen is Foreseen.UNKNOWN or move.end != expected:
        yield f"foreseen {foreseen} directly, and it {move.end}"
    elif move.end == "loads":
        said = " ".join(unaided.changes)
        for each in move.noticed:
            names = [name for name in (each.register, STORED_AS.get(each.register)) if name]
            if not any(re.search(rf"\b{re.escape(name)}\b", said) for name in names):
                yield f"directly, it is not foreseen that {each}"


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
        yield f"predicted changes {_texts(planned - done)} that were not made, made {_texts(done - planned)}"
    if move.end == "refused":
        # Not by value: counters go on between the plan and the move.
        wanted, found = ({refusal_of(text) for text in texts} for texts in (map(str, plan.refusals), move.refusals))
        if wanted != found:
            yield f"predicted refusals {_names(wanted - found)} that were not, found {_names(found - wanted)}"
    if move.end == "loads" and move.runs_on != "destination":
        yield "loaded through proxyd, and the guest does not count on"
    if move.end != "loads" and move.runs_on != "source":
        yield "not loaded through proxyd, and the guest does not count on at its source"
    for noticed in unnamed(result, plan):
        yield f"proxyd does not name {noticed}"
    if plan.unaided is not None:
        yield from silently_wrong(result, plan.unaided)


def _texts(changes: Iterable[tuple[int, str, str, str]]) -> list[str]:
    return [f"vcpu {vcpu}: {action} {register} ({verdict})" for vcpu, action, register, verdict in sorted(changes)]


def _names(refusals: Iterable[Refusal]) -> list[str]:
    return sorted(refusal.register or refusal.reason for refusal in refusals)


def shows(result: Result, what: str) -> bool:
    """Tell whether *result* shows *what*.

    ``directly loads``, ``directly: TEXT`` (in an error of the destination's QEMU), ``loads as it is``,
    ``refuse REGISTER``, or an action on a register or a field, such as ``remove TCR2_EL1``.
    """
    direct, proxied = result.direct, result.proxied
    if what == "directly loads":
        return direct.end == "loads"
    if what == "loads as it is":
        return proxied.end == "loads" and not proxied.touched
    if what.startswith("directly: "):
        return direct.end == "fails" and any(what.removeprefix("directly: ") in line for line in direct.errors)
    if what.startswith("refuse "):
        return proxied.end == "refused" and any(
            f": {what.removeprefix('refuse ')} (" in text for text in proxied.refusals
        )
    return proxied.end == "loads" and any(touched.what == what for touched in proxied.touched)
