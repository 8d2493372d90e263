"""A profile: rules written by hand, as TOML. ``docs/profiles.md`` teaches the language.

    name = "7.3 to 6.12, guests without a PMU"

    [[rule]]
    kind     = "remove"                       # remove, set, set-bits, add, require
    register = "TCR2_EL1"                     # or an id: "0x603000000013c103"
    when     = "ID_AA64MMFR3_EL1.TCRX == 0"   # optional, but for require
    reason   = "the guest has no FEAT_TCR2"   # mandatory: plans, logs and reports show it
    verdict  = "neutral"                      # proven, neutral (default) or lossy: the operator's word

    [destination]                             # optional: what the rules were written for; decides nothing
    kernel = "6.12"
    qemu   = "10.0"

``value`` (set, add) is a number in hex or decimal, ``bits`` (set-bits) a string such as ``0bxxxx_0001``. All conditions
see the registers as they came.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from formats.arm64.register_id import id_of
from proxyd.rewrite.conditions import Condition, ConditionError
from proxyd.rewrite.rules import Add, Remove, Require, Rule, RuleError, Set, SetBits, parse_bits
from proxyd.rewrite.verdict import Verdict

# A profile bridges one pair of kernels; the longest list has 273 registers.
MAX_RULES: Final = 1024

_U64: Final = 1 << 64


class ProfileError(ValueError):
    """The profile cannot be used. The message names file, key, and what is accepted."""

    def __init__(self, file: str, key: str, message: str) -> None:
        super().__init__(f"{file}: {key}: {message}" if key else f"{file}: {message}")
        self.file = file
        self.key = key


class _Rule(msgspec.Struct, forbid_unknown_fields=True):
    kind: Literal["remove", "set", "set-bits", "add", "require"]
    reason: str
    register: str | None = None
    when: str | None = None
    value: int | str | None = None
    bits: str | None = None
    verdict: Literal["proven", "neutral", "lossy"] = "neutral"


class ProfileDestination(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the rules were written for, in words, for people to read: no rule depends on it."""

    kernel: str | None = None
    qemu: str | None = None
    accelerator: Literal["kvm", "tcg"] | None = None


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    rule: list[_Rule]
    name: str = ""
    description: str = ""
    destination: ProfileDestination | None = None


# What an error about one of these keys says is accepted.
_CHOICES: Final = {
    "kind": "remove, set, set-bits, add, require",
    "verdict": "proven, neutral, lossy",
    "accelerator": "kvm, tcg",
}


class Profile(msgspec.Struct, frozen=True):
    """A parsed profile. Rules are tried in the order of the file; ``text`` is all of it."""

    name: str
    description: str
    rules: tuple[Rule, ...]
    destination: ProfileDestination | None = None
    text: str = ""

    @staticmethod
    def parse(data: bytes, name: str) -> Profile:
        """From TOML; ``name`` is the file's, for messages. Raises :class:`ProfileError`."""
        try:
            document = msgspec.toml.decode(data, type=_Document)
        except msgspec.ValidationError as error:
            raise _shape_error(name, error) from error
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            # Besides TOML's own errors: bytes that are not UTF-8, integers of thousands of digits, endless nesting.
            raise ProfileError(name, "", f"TOML expected: {error}") from error
        if not 1 <= len(document.rule) <= MAX_RULES:
            raise ProfileError(name, "rule", f"1 to {MAX_RULES} rules expected, found {len(document.rule)}")
        rules = tuple(_rule(raw, name, f"rule[{number}]") for number, raw in enumerate(document.rule))
        return Profile(document.name or name, document.description, rules, document.destination, data.decode())


def _shape_error(file: str, error: msgspec.ValidationError) -> ProfileError:
    # msgspec says "Invalid enum value 'drop' - at `$.rule[0].kind`": the place is the key.
    message, _, place = str(error).replace("`", "").partition(" - at $")
    key = place.removeprefix(".")
    if message.startswith("Invalid enum value"):
        message += f" (accepted: {_CHOICES[key.rpartition('.')[2]]})"
    elif message.startswith("Object contains unknown field"):
        table = _Rule if key.startswith("rule[") else ProfileDestination if key else _Document
        message = f"unknown key {message.rpartition(' ')[2]} (accepted: {', '.join(table.__struct_fields__)})"
    elif message.startswith("Object missing required field"):
        message = f"key {message.rpartition(' ')[2]} expected, found none"
    return ProfileError(file, key, message[:1].lower() + message[1:])


def _rule(raw: _Rule, file: str, key: str) -> Rule:
    if not raw.reason.strip():
        raise ProfileError(file, f"{key}.reason", "a sentence expected, found nothing")
    when = _when(raw, file, f"{key}.when")
    register = _register(raw, when, file, key)
    if raw.kind not in {"set", "add"} and raw.value is not None:
        raise ProfileError(file, f"{key}.value", f"only set and add have a value, found one in {raw.kind}")
    if raw.kind != "set-bits" and raw.bits is not None:
        raise ProfileError(file, f"{key}.bits", f"only set-bits has bits, found them in {raw.kind}")
    verdict = Verdict(raw.verdict)
    try:
        match raw.kind:
            case "remove":
                return Remove(register=register, reason=raw.reason, when=when, verdict=verdict)
            case "require":
                return Require(register=register, reason=raw.reason, when=when, verdict=verdict)
            case "set-bits":
                mask, value = parse_bits(raw.bits or "")
                return SetBits(register=register, reason=raw.reason, when=when, verdict=verdict, mask=mask, value=value)
            case "set":
                value = _value(raw.value, file, key)
                return Set(register=register, reason=raw.reason, when=when, verdict=verdict, value=value)
            case "add":
                value = _value(raw.value, file, key)
                return Add(register=register, reason=raw.reason, when=when, verdict=verdict, value=value)
    except RuleError as error:
        raise ProfileError(file, key, str(error)) from error


def _when(raw: _Rule, file: str, key: str) -> Condition | None:
    try:
        return None if raw.when is None else Condition.parse(raw.when, key)
    except ConditionError as error:
        raise ProfileError(file, key, str(error).removeprefix(f"{key}: ")) from error


def _register(raw: _Rule, when: Condition | None, file: str, key: str) -> int:
    if raw.register is None:
        if raw.kind == "require" and when is not None and when.registers:
            # What a requirement is about stands in its condition.
            return min(when.registers)
        raise ProfileError(file, f"{key}.register", "name of a register or its id in hex expected, found nothing")
    try:
        return id_of(raw.register)
    except ValueError as error:
        raise ProfileError(file, f"{key}.register", str(error)) from error


def _value(value: int | str | None, file: str, key: str) -> int:
    try:
        number = int(value, 0) if isinstance(value, str) else value
    except ValueError:
        number = None
    if number is None or not 0 <= number < _U64:
        raise ProfileError(file, f"{key}.value", f"number of 64 bits expected, found {value!r}")
    return number
