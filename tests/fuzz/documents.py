"""Texts that people, programs and other hosts hand to proxyd, and what can be wrong with them."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.fuzz.choices import Choices

_ODD: Final = (
    "", "x", -1, 0, 1 << 31, 10**30, 1.5, True, None, [], {}, ["a", 1], {"a": []}, "\u0000", "é" * 50, "a" * 5000,
    "0x603000000013c103", "127.0.0.1:1", "unix:/x", "fd:x", "[::1]:65536", "../..", "inf",
)  # fmt: skip


def _scramble(choices: Choices, value: Any, depth: int = 0) -> Any:
    """The same document with something else in one place."""
    if isinstance(value, dict) and value and depth < 6 and not choices.sometimes(5):
        key = choices.pick(list(value))
        changed = dict(value)
        match choices.below(6):
            case 0:
                del changed[key]
            case 1:
                changed[choices.pick(("x", "name", "", "version", "é"))] = choices.pick(_ODD)
            case _:
                changed[key] = _scramble(choices, value[key], depth + 1)
        return changed
    if isinstance(value, list) and value and depth < 6 and not choices.sometimes(4):
        at = choices.below(len(value))
        return [*value[:at], _scramble(choices, value[at], depth + 1), *value[at + 1 :]]
    return choices.pick(_ODD)


def json_like(choices: Choices, document: Any) -> bytes:
    """JSON that is nearly this document."""
    for _ in range(choices.pick((1, 0, 2, 4))):
        document = _scramble(choices, document)
    text = json.dumps(document).encode()
    return _cut(choices, text)


def toml_like(choices: Choices, text: str) -> bytes:
    """TOML that is nearly this one: lines are dropped, doubled, exchanged, and given other values."""
    lines = text.splitlines()
    for _ in range(choices.pick((1, 2, 4))):
        if not lines:
            break
        at = choices.below(len(lines))
        match choices.below(5):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, choices.pick(lines))
            case 2 | 3 if "=" in lines[at]:
                odd = choices.pick(_ODD)
                key = lines[at].partition("=")[0]
                lines[at] = f"{key}= {json.dumps(odd) if not isinstance(odd, dict) else '{}'}"
            case _:
                lines[at] += choices.pick(("]", '"', "\0", " = ", "é", "'''"))
    return _cut(choices, "\n".join(lines).encode())


def _cut(choices: Choices, data: bytes) -> bytes:
    if not choices.sometimes(6):
        return data
    at = choices.below(len(data) + 1)
    return choices.pick((data[:at], data[:at] + choices.bytes(3) + data[at:]))
