"""What a profile can ask for: five kinds of rule, each over one register, each with its reason.

A rule is pure: given the registers of a vCPU as they came, it says what it would change. Whether that may happen is
decided by its verdict, in ``plan.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from formats.arm64.register_id import describe, id_of, size_of
from proxyd.rewrite.conditions import Condition
from proxyd.rewrite.verdict import Verdict

Registers = Mapping[int, int]

# (action, new value): "remove" has none.
Edit = tuple[str, int | None]

# Guest time hangs on these: a missing counter becomes the destination's own, and time jumps.
TIMERS: Final = frozenset(id_of(name) for name in ("TIMER_CTL", "TIMER_CVAL", "TIMER_CNT"))


class RuleError(ValueError):
    """The rule cannot be. The message says what is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What all rules have. ``when`` None: always."""

    register: int
    reason: str
    when: Condition | None = None
    verdict: Verdict = Verdict.NEUTRAL

    def applies(self, stream: Registers, destination: Registers | None) -> bool:
        """Whether the condition holds for this vCPU."""
        return self.when is None or self.when.holds(stream, destination)

    def change(self, stream: Registers, destination: Registers | None) -> Edit | None:
        """The edit that the rule asks for, or None."""
        return self._edit(stream.get(self.register)) if self.applies(stream, destination) else None

    def violation(self, stream: Registers, destination: Registers | None) -> str | None:  # noqa: ARG002
        """For ``require``: the sentence that refuses the guest, or None."""
        return None

    def _check_width(self, value: int) -> None:
        """KVM would drop the bits beyond a 32-bit register, such as CCSIDR, without a word."""
        bits = 8 * size_of(self.register)
        if value >> bits:
            raise RuleError(f"{describe(self.register)} has {bits} bits, found {value:#x}")

    def _edit(self, old: int | None) -> Edit | None:  # noqa: ARG002
        raise AssertionError("every kind of rule has its own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove(Rule):
    """The register leaves the list; the destination keeps its own value."""

    def __post_init__(self) -> None:
        if self.register in TIMERS:
            raise RuleError(f"{describe(self.register)} must never be removed: the guest's time would jump")

    def _edit(self, old: int | None) -> Edit | None:
        return None if old is None else ("remove", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Set(Rule):
    """The register, if the stream has it, becomes ``value``."""

    value: int

    def __post_init__(self) -> None:
        self._check_width(self.value)

    def _edit(self, old: int | None) -> Edit | None:
        return None if old is None or old == self.value else ("set", self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBits(Rule):
    """Bits in ``mask`` become those of ``value``; the others stay."""

    mask: int
    value: int

    def __post_init__(self) -> None:
        self._check_width(self.mask)

    def _edit(self, old: int | None) -> Edit | None:
        if old is None:
            return None
        new = old & ~self.mask | self.value
        return None if new == old else ("set", new)


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Rule):
    """The register, if the stream lacks it, is added with ``value``: an old behaviour, said out loud."""

    value: int

    def __post_init__(self) -> None:
        if self.register in TIMERS:
            raise RuleError(f"{describe(self.register)} must never be added: the guest's time would jump")
        self._check_width(self.value)

    def _edit(self, old: int | None) -> Edit | None:
        return ("add", self.value) if old is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Require(Rule):
    """The guest may go only if ``when`` holds. Changes nothing."""

    def __post_init__(self) -> None:
        if self.when is None:
            raise RuleError("require: a condition (when) expected, found none")

    def violation(self, stream: Registers, destination: Registers | None) -> str | None:
        if self.applies(stream, destination):
            return None
        return f"the profile requires {self.when}: {self.reason}"

    def change(self, stream: Registers, destination: Registers | None) -> Edit | None:  # noqa: ARG002
        return None


def parse_bits(text: str) -> tuple[int, int]:
    """``0bxxxx_0001`` to (mask, value): 0 clears, 1 sets, x keeps; ``_`` separates. The last digit is bit 0.

    Raises :class:`RuleError`.
    """
    digits = text.removeprefix("0b").replace("_", "")
    if not text.startswith("0b") or not digits or len(digits) > 64 or set(digits) - set("01x"):
        raise RuleError(f"bits such as 0bxxxx_0001 expected (0 clears, 1 sets, x keeps, 64 at most), found {text!r}")
    mask = int("".join("0" if digit == "x" else "1" for digit in digits), 2)
    return mask, int(digits.replace("x", "0"), 2)
