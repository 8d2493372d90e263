"""Where the generator's decisions come from.

Every input is a function of its choices, so one generator serves the seeds of a campaign, which are fast, and bytes,
which a coverage-guided fuzzer and hypothesis can change and shrink. Decisions that bytes no longer answer are 0, and 0
is always the plainest one: the shortest input that shows something is a short one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Choices:
    """Decisions of every kind, all made of :meth:`below`."""

    def below(self, count: int) -> int:
        """From 0 to ``count - 1``."""
        raise NotImplementedError

    def bytes(self, count: int) -> bytes:
        """That many."""
        raise NotImplementedError

    def sometimes(self, one_in: int) -> bool:
        """Once in so many."""
        return self.below(one_in) == one_in - 1

    def pick(self, among: Sequence[T]) -> T:
        """One of them."""
        return among[self.below(len(among))]

    def near(self, value: int, bits: int = 32) -> int:
        """A number that is near this one, or far from it, or one at which integers break."""
        edge = 1 << bits
        odd = (value + 1, value - 1, 0, edge - 1, edge >> 1, value << 8, value ^ (1 << self.below(bits)))
        return self.pick(odd) % edge


class SeedChoices(Choices):
    """Of a pseudo-random generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, count: int) -> int:
        return int(self._random.random() * count)

    def bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


class ByteChoices(Choices):
    """Of bytes, until they end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, count: int) -> int:
        size = 1 if count <= 256 else 4
        return int.from_bytes(self.bytes(size), "little") % count

    def bytes(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece.ljust(count, b"\0")


class Target(Protocol):
    """Feeds something; returns what came of it in a word, and raises AssertionError if a property does not hold."""

    def __call__(self, choices: Choices) -> str: ...
