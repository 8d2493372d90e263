"""What one line of a log means for the register that it names: what was sent, what the knowledge base says of that.

Decides nothing: the verdicts are those of the knowledge base, and whether they hold for a guest is for the plan to say,
which sees the guest's registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from formats.arm64.id_fields import fields_of
from formats.arm64.register_id import name_of
from formats.qemu_log import LogKind, LogLine
from proxyd.rewrite.knowledge import Case, CaseAction, Entry, Knowledge
from proxyd.rewrite.verdict import Verdict

_DOES: Final = {
    CaseAction.REMOVE: "removes it",
    CaseAction.DESTINATION: "sends the destination's value",
    CaseAction.RAISE: "keeps the field on",
}

NOTHING_KNOWN: Final = "nothing is known of such a change: proxyd refuses the stream before it is released"


def advice(line: LogLine, knowledge: Knowledge) -> tuple[tuple[str, str], ...]:
    """(title, text) pairs about the register of this line; empty if it names none."""
    if line.register is None:
        return ()
    return tuple(_advice(line, line.register, knowledge))


def _advice(line: LogLine, register: int, knowledge: Knowledge) -> Iterator[tuple[str, str]]:
    entry = knowledge.entry(register)
    match line.kind:
        case LogKind.VALUE_REFUSED if line.wanted is not None:
            yield "sent", _sent(register, line.wanted, line.own)
            yield from _cases(entry, CaseAction.DESTINATION, _differing(register, line.wanted, line.own))
        case LogKind.ONLY_IN_STREAM:
            yield from _cases(entry, CaseAction.REMOVE, {None})
        case LogKind.UNKNOWN_TO_KVM:
            yield from _hidden(entry, knowledge)
        case LogKind.ONLY_AT_DESTINATION if entry is not None:
            for case in (one for one in entry.cases if one.action is CaseAction.ABSENT):
                when = "" if case.when is None else f" if {case.when}"
                does = "leaves the destination's own" if case.value is None else f"adds it as {case.value:#x}"
                yield "proxyd", f"{case.verdict}{when}: {does}: {case.reason}"
        case _:
            pass


def _sent(register: int, wanted: int, own: int | None) -> str:
    if own is None:
        return f"{wanted:#x}"
    fields = [
        f"{field.name} {field.get(wanted)}, here {field.get(own)}"
        for field in reversed(fields_of(register))
        if field.get(wanted) != field.get(own)
    ]
    return f"{wanted:#x}, the destination has {own:#x}" + (f" ({'; '.join(fields)})" if fields else "")


def _differing(register: int, wanted: int, own: int | None) -> set[str | None]:
    """The fields that differ, and None for the register as a whole."""
    if own is None:
        return {None, *(field.name for field in fields_of(register))}
    return {None, *(field.name for field in fields_of(register) if field.get(wanted) != field.get(own))}


def _cases(entry: Entry | None, action: CaseAction, fields: set[str | None]) -> Iterator[tuple[str, str]]:
    cases = [one for one in entry.cases if one.action is action and one.field in fields] if entry is not None else []
    for case in cases:
        field = "" if case.field is None else f"{case.field}: "
        when = "" if case.when is None else f" if {case.when}"
        yield "proxyd", f"{field}{case.verdict}{when}: {_does(case)}: {case.reason}"
    if not cases:
        yield "proxyd", NOTHING_KNOWN


def _does(case: Case) -> str:
    if case.verdict is Verdict.UNKNOWN:
        return "refuses the stream, and nobody can allow it"
    return _DOES[case.action] + (", if allowed by name" if case.verdict is Verdict.LOSSY else "")


def _hidden(entry: Entry | None, knowledge: Knowledge) -> Iterator[tuple[str, str]]:
    if entry is None or entry.enabled_by is None:
        yield "proxyd", "it is not known which ID register's field hides it: proxyd cannot foresee this"
        return
    by = entry.enabled_by
    yield "hidden", f"by Linux {by.since} and newer while {name_of(by.register)}.{by.field} is 0"
    yield from _cases(knowledge.entry(by.register), CaseAction.RAISE, {by.field})
