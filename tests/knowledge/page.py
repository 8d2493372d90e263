"""Writes docs/knowledge.md from proxyd/knowledge, for people who review it or want to know what proxyd knows.

python -m tests.knowledge.page
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path

from formats.arm64.register_id import name_of, size_of
from proxyd.rewrite.kernel import KernelRelease
from proxyd.rewrite.knowledge import Case, CaseAction, Entry, Knowledge, QemuLoader
from proxyd.rewrite.knowledge_file import parse_knowledge

PAGE = Path(__file__).parents[2] / "docs" / "knowledge.md"
FOLDER = resources.files("proxyd.knowledge")

INTRODUCTION = """\
# What proxyd knows of registers

Generated from `proxyd/knowledge/*.toml` by `python -m tests.knowledge.page`; a test compares the two. How the data is
read: `proxyd/rewrite/knowledge_file.py`. How to add to it: `docs/extending.md`.

Every register that one of the ten measured kernels lists has an entry, and so has every one that KVM's source lists
from 5.10 to 7.1. **Listed**: when which kernel has it in KVM_GET_REG_LIST. **Takes**: which values, where that is not
any. Then what may change, in which situation, with the verdict: `proven` (the guest cannot notice), `neutral` (visible
only in principle, and argued for), `lossy` (refused, unless the route allows the register by name), `unknown`
(refused). The first line of a situation whose condition holds decides; without one the guest is refused. Conditions are
over the stream's registers; `destination.` stands before the destination's. A value that nothing here forbids passes as
it is.

"Measured" means: with KVM on Debian's arm64 kernels 6.1.176, 6.12.107, 6.16.12, 6.17.13, 6.18.15, 6.19.14, 7.0.13,
7.1.13, 7.2.12 and 7.3.4 under emulated CPUs (neoverse-n1, neoverse-v1 and max), with QEMU 10.0 and 11.1, in November
2026: register lists, each register written and read back, and guests moved.
Twelve hexadecimal digits are a commit of Linux's, or of QEMU's where it says so.
"""

SITUATIONS = {
    CaseAction.REMOVE: "destination without it",
    CaseAction.DESTINATION: "destination takes or keeps another value",
    CaseAction.RAISE: "destination hides a register by it",
    CaseAction.REPAIR: "destination takes it and does not keep it",
    CaseAction.ABSENT: "stream without it",
    CaseAction.NOTICE: "told, not changed",
}


def page() -> str:
    """As it stands in the file."""
    parts = [INTRODUCTION]
    files = sorted((path for path in FOLDER.iterdir() if path.name.endswith(".toml")), key=lambda path: path.name)
    for path in files:
        knowledge = parse_knowledge([(path.name, path.read_bytes())])
        if not knowledge.entries:
            continue
        parts.append(f"\n## {path.name.removesuffix('.toml').replace('_', ' ').capitalize()}\n")
        comment = [line.removeprefix("#").strip() for line in _leading_comment(path.read_text(encoding="ascii"))]
        parts.append("\n" + "\n".join(comment) + "\n")
        parts += _entries(knowledge.entries.values())
    builtin = Knowledge.builtin()
    parts += _loaders(builtin.loaders)
    parts += _masks(builtin.masks)
    return "".join(parts)


def _leading_comment(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        yield line


def _entries(entries: Iterable[Entry]) -> Iterator[str]:
    """One section for neighbours that say the same."""
    for _, group in groupby(entries, key=_said):
        members = list(group)
        entry = members[0]
        yield f"\n### {', '.join(_rows([name_of(member.register) for member in members]))}\n\n"
        first, last = members[0].register, members[-1].register
        ids = f"`{first:#x}`" if len(members) == 1 else f"{len(members)} registers, `{first:#x}` to `{last:#x}`"
        yield f"{ids}; {8 * size_of(first)} bits. **Listed** {entry.listed}."
        if entry.accepts:
            yield f" **Takes** {'; '.join(map(str, entry.accepts))}."
        if entry.enabled_by is not None:
            field = f"{name_of(entry.enabled_by.register)}.{entry.enabled_by.field}"
            yield f" **Hidden** by Linux {entry.enabled_by.since} and newer while {field} is 0."
        yield f" ({entry.evidence})\n"
        if entry.cases:
            yield "\n| situation | field | if | verdict | why | evidence |\n| --- | --- | --- | --- | --- | --- |\n"
            yield from _cases(entry.cases)


def _said(entry: Entry) -> tuple[str, ...]:
    """All that is known of a register but its name and its id."""
    cases = (
        f"{case.action} {case.field} {case.when} {case.verdict} {case.reason} {case.repair} {case.value}"
        for case in entry.cases
    )
    return entry.listed, str([str(rule) for rule in entry.accepts]), str(entry.enabled_by), entry.evidence, *cases


def _rows(names: Sequence[str]) -> Iterator[str]:
    """Names that differ in a number only: the first and the last."""
    stems = [("".join(c for c in name if not c.isdigit()), name) for name in names]
    for _, group in groupby(stems, key=lambda pair: pair[0]):
        members = [name for _, name in group]
        if len(members) > 3:
            yield f"{members[0]} to {members[-1]}"
        else:
            yield from members


def _cases(cases: Iterable[Case]) -> Iterator[str]:
    """One line for fields that are worth the same."""
    for _, group in groupby(cases, key=lambda c: (c.action, str(c.when), c.verdict, c.reason, str(c.repair), c.value)):
        members = list(group)
        case = members[0]
        conditions = [f"the destination has {case.repair}, or a probe has seen it"] if case.repair else []
        conditions += [f"`{case.when}`"] if case.when else []
        situation = SITUATIONS[case.action] + ("" if case.value is None else f": {case.value:#x} is added")
        fields = ", ".join(member.field for member in members if member.field)
        cells = (situation, fields, " and ".join(conditions), case.verdict.value, case.reason, case.evidence)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _loaders(loaders: Iterable[QemuLoader]) -> Iterator[str]:
    yield "\n## What QEMU makes of a list that is not its own\n\n"
    yield "| QEMU | a longer list | above its highest id | tolerated | evidence |\n| --- | --- | --- | --- | --- |\n"
    above = {None: "not known", True: "dropped without an error", False: "fails"}
    for loader in loaders:
        first = ".".join(map(str, loader.first))
        until = "and newer" if loader.last is None else f"to {'.'.join(map(str, loader.last))}"
        tolerated = [name_of(r) + ("" if v is None else f" = {v:#x}") for r, v in loader.tolerated.items()]
        cells = (
            f"{first} {until}",
            "may load" if loader.longer else "fails",
            above[loader.dropped_above],
            ", ".join(tolerated) or "nothing",
            loader.evidence,
        )
        yield "| " + " | ".join(cells) + " |\n"


def _masks(masks: Mapping[KernelRelease, Mapping[int, int]]) -> Iterator[str]:
    yield "\n## Bits of identification registers that may be lowered\n\n"
    yield "Before Linux 6.7: none, but for CSV2 and CSV3. A host's own description goes before this table.\n\n"
    yield "| register | mask, by kernel |\n| --- | --- |\n"
    for register in sorted({register for table in masks.values() for register in table}):
        runs = []
        for mask, group in groupby(sorted(masks), key=lambda kernel: masks[kernel].get(register, 0)):
            kernels = list(group)
            span = str(kernels[0]) if len(kernels) == 1 else f"{kernels[0]} to {kernels[-1]}"
            runs.append(f"{span}: `{mask:#x}`")
        yield f"| {name_of(register)} | {'; '.join(runs)} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="ascii")
