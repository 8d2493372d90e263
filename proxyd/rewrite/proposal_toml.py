"""A proposal written down: a profile that can be read as it is, and entries for the knowledge base.

Both are drafts for a person: what was seen stands above each rule, and what is not known is marked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from formats.arm64.register_id import id_of, name_of
from proxyd.rewrite.draft import ARGUE, DraftCase, DraftRule, Proposal

_WIDTH: Final = 116


def profile_toml(proposal: Proposal, title: str) -> str:
    """The rules as a profile, which :meth:`~proxyd.rewrite.profile.Profile.parse` reads; "" without a rule."""
    if not proposal.rules:
        return ""
    return "\n".join([f"name = {_text(title)}", *(line for rule in proposal.rules for line in _rule(rule))]) + "\n"


def knowledge_toml(proposal: Proposal, kernel: str | None) -> str:
    """Entries for the knowledge base, one for each register, which
    :func:`~proxyd.rewrite.knowledge_file.parse_knowledge` reads; "" if it covers everything already.

    :param kernel: the destination's release, such as ``6.12``.
    """
    registers = dict.fromkeys(case.register for case in proposal.cases)
    lines: list[str] = []
    for register in registers:
        lines += _entry([case for case in proposal.cases if case.register == register], kernel)
    return "\n".join(lines) + "\n" if lines else ""


def comments(texts: Sequence[str]) -> list[str]:
    """Each text as comment lines."""
    return [line for text in texts for line in _comment(text)]


def _rule(rule: DraftRule) -> Iterator[str]:
    yield ""
    yield from comments([f"seen: {line}" for line in rule.said])
    yield from comments(rule.remarks)
    yield "[[rule]]"
    yield f"kind     = {_text(rule.kind)}"
    yield f"register = {_text(_name(rule.register))}"
    if rule.kind == "set":
        yield f'value    = "{rule.value:#x}"'
    if rule.kind == "set-bits":
        yield f'bits     = "{bits(rule.mask, rule.value)}"'
    if rule.when is not None:
        yield f"when     = {_text(rule.when)}"
    yield f"reason   = {_text(rule.reason)}"
    if rule.kind != "require":
        remark = f"   # {ARGUE}; until then the register must be allowed by name" if rule.verdict == "lossy" else ""
        yield f"verdict  = {_text(rule.verdict.value)}{remark}"


def _entry(cases: Sequence[DraftCase], kernel: str | None) -> Iterator[str]:
    first = cases[0]
    yield ""
    yield "[[entry]]"
    yield f"registers = [{_text(_name(first.register))}]"
    yield f"listed = [{{ sometimes = {_text(f'{ARGUE}: on which kernels, and when')} }}]"
    yield f"evidence = {_text(next((case.evidence for case in cases if case.evidence), ARGUE))}"
    accepts = next((case.accepts for case in cases if case.accepts is not None), None)
    if accepts is not None:
        span = "" if kernel is None else f'since = "{kernel}", until = "{kernel}", '
        yield f'accepts = [{{ {span}values = "{accepts}" }}]   # {ARGUE}: on which kernels'
    enabled_by = next((case.enabled_by for case in cases if case.enabled_by is not None), None)
    if enabled_by is not None:
        yield f'enabled_by = {{ field = "{enabled_by}", since = "{kernel or "0.0"}" }}   # {ARGUE}: since when'
    for case in cases:
        if case.action is not None:
            yield ""
            yield "[[entry.case]]"
            yield f"action = {_text(case.action.value)}"
            if case.fields:
                yield f"fields = [{', '.join(map(_text, case.fields))}]"
            if case.when is not None:
                yield f"when = {_text(case.when)}"
            yield f'verdict = "lossy"   # {ARGUE}'
            yield f"reason = {_text(case.reason)}"
            yield f"evidence = {_text(case.evidence)}"


def bits(mask: int, value: int) -> str:
    """``0bxx_0001``-like text for :func:`~proxyd.rewrite.rules.parse_bits`: whole nibbles, the last digit is bit 0."""
    count = max((mask.bit_length() + 3) // 4, 1)
    nibbles = []
    for place in reversed(range(count)):
        digits = [
            (str(value >> bit & 1) if mask >> bit & 1 else "x") for bit in range(4 * place + 3, 4 * place - 1, -1)
        ]
        nibbles.append("".join(digits))
    return "0b" + "_".join(nibbles)


def _name(register: int) -> str:
    """A name that leads back to the id, or the id."""
    try:
        return name_of(register) if id_of(name_of(register)) == register else f"{register:#x}"
    except ValueError:
        return f"{register:#x}"


def _text(text: str) -> str:
    """A basic string: JSON's escapes are TOML's. A log is foreign text, so everything unusual is escaped."""
    return json.dumps("".join(c if c.isprintable() else "?" for c in text), ensure_ascii=False)


def _comment(text: str) -> Iterator[str]:
    line = "#"
    for word in "".join(c if c.isprintable() else "?" for c in text).split(" "):
        if len(line) + 1 + len(word) > _WIDTH and line != "#":
            yield line
            line = "#  "
        line += f" {word}"
    yield line
