"""A pasted log, explained: its lines by kind of error, the most particular cause first."""

from __future__ import annotations

from dataclasses import dataclass

from formats.qemu_log import LogLine, parse_line, registers_in
from proxyd.cli.qemu_errors import Explanation, explain_error


@dataclass(frozen=True, slots=True)
class ExplainedLines:
    """The lines of one kind of error, each once; ``registers`` are those that they name, ``facts`` what they say."""

    explanation: Explanation
    lines: tuple[str, ...]
    registers: tuple[int, ...]
    facts: tuple[LogLine, ...]


@dataclass(frozen=True, slots=True)
class ExplainedLog:
    """``errors`` with the most particular first. ``others`` counts lines about something else."""

    errors: tuple[ExplainedLines, ...]
    others: int

    @property
    def causes(self) -> tuple[ExplainedLines, ...]:
        """The errors that need an explanation: not those that only follow from a more particular one."""
        particular = tuple(one for one in self.errors if not one.explanation.follows)
        return particular or self.errors[:1]

    @property
    def consequences(self) -> tuple[ExplainedLines, ...]:
        """The others."""
        causes = self.causes
        return tuple(one for one in self.errors if one not in causes)

    @property
    def registers(self) -> tuple[int, ...]:
        """All that are named, in the order of the errors."""
        return tuple(dict.fromkeys(register for one in self.errors for register in one.registers))


def explain_log(text: str) -> ExplainedLog:
    """Explain each line that is known."""
    found: dict[Explanation, dict[str, None]] = {}
    others = 0
    for line in filter(None, (line.strip() for line in text.splitlines())):
        explanation = explain_error(line)
        if explanation is None:
            others += 1
        else:
            found.setdefault(explanation, {})[line] = None
    errors = [_explained(explanation, tuple(lines)) for explanation, lines in found.items()]
    return ExplainedLog(tuple(sorted(errors, key=lambda one: one.explanation.rank)), others)


def _explained(explanation: Explanation, lines: tuple[str, ...]) -> ExplainedLines:
    parsed = [one for one in map(parse_line, lines) if one is not None]
    # QEMU writes the registers of every vCPU, and twice: the same fact stands in many lines.
    facts = {(one.kind, one.register, one.wanted, one.own, one.errno): one for one in reversed(parsed)}
    registers = tuple(dict.fromkeys(register for line in lines for register in registers_in(line)))
    return ExplainedLines(explanation, lines, registers, tuple(reversed(facts.values())))
